"""Queues and workers as operators see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, func, or_, select
from sqlalchemy.orm import Session

from app.db.job import HELD, QUEUED, Job, Worker


@dataclass(frozen=True)
class Queue:
    """The jobs and workers of one worker class."""

    worker_class: str
    depth: int
    delayed: int
    oldest_queued_at: datetime | None
    running: int
    workers: int


def queues(session: Session, now: datetime, *, seen_after: datetime) -> list[Queue]:
    """Return every class that has jobs to do or a worker that was seen lately."""
    due = or_(Job.not_before.is_(None), Job.not_before <= now)
    waiting = session.execute(
        select(
            Job.worker_class,
            func.sum(case((due, 1), else_=0)),
            func.sum(case((due, 0), else_=1)),
            func.min(case((due, Job.queued_at))),
        )
        .where(QUEUED)
        .group_by(Job.worker_class)
    )
    by_class = {name: (int(depth), int(delayed), oldest) for name, depth, delayed, oldest in waiting}
    running = dict(_pairs(session, select(Job.worker_class, func.count()).where(HELD).group_by(Job.worker_class)))
    alive = select(Worker.worker_class, func.count()).where(Worker.seen_at >= seen_after).group_by(Worker.worker_class)
    workers = dict(_pairs(session, alive))
    return [
        Queue(name, *by_class.get(name, (0, 0, None)), running.get(name, 0), workers.get(name, 0))
        for name in sorted({*by_class, *running, *workers})
    ]


def _pairs(session: Session, query):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - any grouped count
    return [(str(name), int(count)) for name, count in session.execute(query)]


def page(session: Session, *, after: str, limit: int) -> list[Worker]:
    """Return workers, first started first."""
    return list(session.scalars(select(Worker).where(Worker.id > after).order_by(Worker.id).limit(limit)))


def project_of(session: Session, job_ids: list[str]) -> dict[str, str]:
    """Return which project each job belongs to."""
    rows = session.execute(select(Job.id, Job.project_id).where(Job.id.in_(job_ids)))
    return {row.id: row.project_id for row in rows}


def last_seen(session: Session, host: str, *, lost_after: datetime | None = None) -> datetime | None:
    """Return when the newest worker of a host was last seen; None if never.

    With `lost_after`, of those whose GPU answers or was lost after that time.
    """
    query = select(func.max(Worker.seen_at)).where(Worker.host == host)
    if lost_after is not None:
        query = query.where(or_(Worker.device_lost_at.is_(None), Worker.device_lost_at > lost_after))
    return session.scalar(query)


def forget(session: Session, *, unseen_since: datetime) -> None:
    """Delete the rows of workers that were not seen for long."""
    session.execute(delete(Worker).where(Worker.seen_at < unseen_since))


def lock(session: Session, worker_id: str) -> Worker | None:
    """Read a worker and hold its row until the end of the transaction."""
    return session.get(Worker, worker_id, with_for_update=True)


def drain_requested(session: Session, worker_id: str) -> bool:
    """Tell whether a worker was asked to drain."""
    return session.scalar(select(Worker.drain_requested_at).where(Worker.id == worker_id)) is not None


def largest(session: Session, worker_class: str, *, seen_after: datetime) -> tuple[str, int] | None:
    """Return (device, bytes of its memory) of the largest worker of a class that was seen lately; None without one."""
    query = select(Worker.device, Worker.memory_bytes).where(
        Worker.worker_class == worker_class, Worker.seen_at >= seen_after, Worker.memory_bytes.is_not(None)
    )
    row = session.execute(query.order_by(Worker.memory_bytes.desc()).limit(1)).first()
    return None if row is None else (row.device, row.memory_bytes)
