"""What operators ask about queues and workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.db.job import Worker
from app.db.queries import workers
from app.db.queries.workers import Queue
from app.db.session import clock
from app.errors import NotFound
from app.services.resources import Resources


@dataclass(frozen=True)
class WorkerReading:
    """A worker, when that was read, and whether its job may be named to who asks."""

    worker: Worker
    now: datetime
    lease_seconds: float
    job_id: str | None

    @property
    def heartbeat_age_seconds(self) -> float:
        """Seconds since it was seen."""
        return max((self.now - self.worker.seen_at).total_seconds(), 0.0)

    @property
    def state(self) -> str:
        """lost after a lease of silence; else what it does."""
        if self.heartbeat_age_seconds > self.lease_seconds:
            return "lost"
        if self.worker.drain_requested_at is not None:
            return "draining" if self.worker.job_id else "drained"
        return "busy" if self.worker.job_id else "idle"


def queues(resources: Resources) -> tuple[datetime, list[Queue]]:
    """Return every queue, and when it was read."""
    with resources.database.reading() as session:
        now = clock(session)
        lease = timedelta(seconds=resources.settings.lease_seconds)
        return now, workers.queues(session, now, seen_after=now - lease)


def page(resources: Resources, project_id: str, *, after: str, limit: int) -> Sequence[WorkerReading]:
    """Return workers; another project's job is not named."""
    with resources.database.reading() as session:
        now = clock(session)
        rows = workers.page(session, after=after, limit=limit)
        projects = workers.project_of(session, [row.job_id for row in rows if row.job_id])
    mine = {job_id for job_id, project in projects.items() if project == project_id}
    lease = resources.settings.lease_seconds
    return [WorkerReading(row, now, lease, row.job_id if row.job_id in mine else None) for row in rows]


def drain(resources: Resources, project_id: str, worker_id: str) -> WorkerReading:
    """Ask a worker to claim nothing more and give its job back; raises NotFound."""
    with resources.database.unit_of_work() as session:
        now = clock(session)
        worker = workers.ask_to_drain(session, worker_id, now=now)
        if worker is None:
            raise NotFound
        projects = workers.project_of(session, [worker.job_id] if worker.job_id else [])
    job_id = worker.job_id if project_id in projects.values() else None
    return WorkerReading(worker, now, resources.settings.lease_seconds, job_id)
