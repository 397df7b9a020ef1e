"""Queues per worker class, and workers, which can be drained."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from fastapi import Query as FromQuery

from app.api.deps import PagerDep
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.dependencies import ActorDep, ResourcesDep
from app.services import workers
from app.services.workers import WorkerReading

router = APIRouter(prefix="/v1", tags=["operations"])

WorkerId = Annotated[str, Path(description="`wrk_` and a ULID.")]


class QueueView(View):
    """The queue of one worker class."""

    worker_class: str
    depth: int
    """Jobs that a worker could claim now."""
    delayed: int
    """Jobs that wait for a back-off to pass."""
    oldest_age_seconds: float | None
    """Time that the oldest of them has waited."""
    running: int
    """Jobs that workers hold."""
    workers: int
    """Workers that were seen within a lease."""


class WorkerView(View):
    """One worker."""

    id: str
    worker_class: str
    state: Literal["idle", "busy", "draining", "drained", "device_lost", "lost"]
    host: str | None
    """Null but for operators, like the process."""
    pid: int | None
    device: str
    """cpu or cuda."""
    memory_bytes: int | None
    """Of the device."""
    engine_version: str
    job_id: str | None
    """The job that it runs; null also for another project's job."""
    device_lost_at: datetime | None
    """Since when it claims nothing, because its device failed a job and has not answered since."""
    started_at: datetime
    heartbeat_age_seconds: float


def worker_view(reading: WorkerReading) -> WorkerView:
    """Show a worker."""
    worker = reading.worker
    names = ("id", "worker_class", "device", "memory_bytes", "engine_version", "device_lost_at", "started_at")
    fields = {name: getattr(worker, name) for name in names}
    fields |= {name: getattr(worker, name) if reading.shows_machine else None for name in ("host", "pid")}
    age = round(reading.heartbeat_age_seconds, 3)
    return WorkerView(state=reading.state, job_id=reading.job_id, heartbeat_age_seconds=age, **fields)


@router.get("/queues")
def list_queues(resources: ResourcesDep) -> Page[QueueView]:
    """List the queues, one per worker class."""
    now, queues = workers.queues(resources)
    items = [
        QueueView(
            worker_class=queue.worker_class,
            depth=queue.depth,
            delayed=queue.delayed,
            oldest_age_seconds=_age(queue.oldest_queued_at, now),
            running=queue.running,
            workers=queue.workers,
        )
        for queue in queues
    ]
    return Page(items=items, next_cursor=None)


def _age(since: datetime | None, now: datetime) -> float | None:
    return None if since is None else round(max((now - since).total_seconds(), 0.0), 3)


@router.get("/workers")
def list_workers(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, actor: ActorDep
) -> Page[WorkerView]:
    """List the workers that were seen within a day, first started first."""
    rows = workers.page(resources, actor, after=pager.position(query) or "", limit=query.limit + 1)
    return pager.page(query, rows, worker_view, lambda row: row.worker.id)


@router.post("/workers/{worker_id}/drain")
def drain_worker(worker_id: WorkerId, resources: ResourcesDep, actor: ActorDep) -> WorkerView:
    """Let a worker claim nothing more: it gives its job back, uncharged and with its checkpoints, and stays idle.

    For admins of the default project.
    """
    return worker_view(workers.drain(resources, actor, worker_id))


@router.delete("/workers/{worker_id}/drain")
def undrain_worker(worker_id: WorkerId, resources: ResourcesDep, actor: ActorDep) -> WorkerView:
    """Let a worker that was to drain claim jobs again, within seconds; for admins of the default project."""
    return worker_view(workers.undrain(resources, actor, worker_id))
