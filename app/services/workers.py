"""Queues and workers, for operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db.job import Worker
from app.db.queries.queue import workers
from app.db.queries.queue.workers import Queue
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import Forbidden, NotFound
from app.platform.actor import Actor
from app.services.resources import Resources


@dataclass(frozen=True)
class WorkerReading:
    """A worker, when it was read, and which of its details the caller may see."""

    worker: Worker
    now: datetime
    lease_seconds: float
    job_id: str | None
    shows_machine: bool

    @property
    def heartbeat_age_seconds(self) -> float:
        """Seconds since it was seen."""
        return max((self.now - self.worker.seen_at).total_seconds(), 0.0)

    @property
    def state(self) -> str:
        """`lost` after a lease without a heartbeat; else what the worker does."""
        if self.heartbeat_age_seconds > self.lease_seconds:
            return "lost"
        if self.worker.drain_requested_at is not None:
            return "draining" if self.worker.job_id else "drained"
        if self.worker.device_lost_at is not None:
            return "device_lost"
        return "busy" if self.worker.job_id else "idle"


def queues(resources: Resources) -> tuple[datetime, list[Queue]]:
    """Return every queue, and when it was read."""
    with resources.database.reading() as session:
        now = clock(session)
        lease = timedelta(seconds=resources.settings.lease_seconds)
        return now, workers.queues(session, now, seen_after=now - lease)


def page(resources: Resources, actor: Actor, *, after: str, limit: int) -> Sequence[WorkerReading]:
    """Return workers; another project's job is not named, and machines are to operators only."""
    with resources.database.reading() as session:
        now = clock(session)
        rows = workers.page(session, after=after, limit=limit)
        projects = workers.project_of(session, [row.job_id for row in rows if row.job_id])
    return [_reading(resources, actor, row, projects, now) for row in rows]


def largest_memory(resources: Resources, worker_class: str) -> int | None:
    """Return the memory of the largest worker of a class that was seen lately; None without one."""
    with resources.database.reading() as session:
        lately = clock(session) - timedelta(seconds=resources.settings.lease_seconds)
        largest = workers.largest(session, worker_class, seen_after=lately)
    return largest[1] if largest else None


def drain(resources: Resources, actor: Actor, worker_id: str) -> WorkerReading:
    """Ask a worker to claim nothing more and give its job back; raises Forbidden, NotFound."""
    with _changing(resources, actor, worker_id, "drain") as (session, worker, now):
        worker.drain_requested_at = worker.drain_requested_at or now
        return _reading(resources, actor, worker, _project(session, worker), now)


def undrain(resources: Resources, actor: Actor, worker_id: str) -> WorkerReading:
    """Let a worker that was to drain claim jobs again, within seconds; raises Forbidden, NotFound."""
    with _changing(resources, actor, worker_id, "undrain") as (session, worker, now):
        worker.drain_requested_at = None
        return _reading(resources, actor, worker, _project(session, worker), now)


@contextmanager
def _changing(
    resources: Resources, actor: Actor, worker_id: str, verb: str
) -> Iterator[tuple[Session, Worker, datetime]]:
    if not actor.is_operator:
        raise Forbidden("Only an admin of the default project drains workers.")
    with resources.database.unit_of_work() as session:
        worker, now = workers.lock(session, worker_id), clock(session)
        if worker is None:
            raise NotFound
        before = worker.drain_requested_at
        yield session, worker, now
        if worker.drain_requested_at != before:
            audit.record(session, f"worker.{verb}", worker.id, now=now, host=worker.host, job_id=worker.job_id)


def _project(session: Session, worker: Worker) -> dict[str, str]:
    return workers.project_of(session, [worker.job_id] if worker.job_id else [])


def _reading(
    resources: Resources, actor: Actor, worker: Worker, projects: Mapping[str, str], now: datetime
) -> WorkerReading:
    job_id = worker.job_id if worker.job_id and projects.get(worker.job_id) == actor.project_id else None
    return WorkerReading(worker, now, resources.settings.lease_seconds, job_id, shows_machine=actor.is_operator)
