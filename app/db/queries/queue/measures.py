"""Statements that count for operators."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.job import QUEUED, Heartbeat, Job, Worker
from app.db.result import PhaseRecord
from app.db.session import clock

DAY = timedelta(days=1)
SWEEP = "reconciler"
GONE = timedelta(minutes=2)
"""A worker that was not seen for so long holds no memory."""


def queues(session: Session) -> Sequence[tuple[str, int, datetime]]:
    """Return (worker class, queued jobs, since when the oldest waits)."""
    query = select(Job.worker_class, func.count(), func.min(Job.queued_at)).where(QUEUED).group_by(Job.worker_class)
    return [(name, count, oldest) for name, count, oldest in session.execute(query)]


def phases_of_the_last_day(session: Session, now: datetime) -> Sequence[tuple[str, float]]:
    """Return (phase, mean seconds) of the phases that ended lately."""
    query = select(PhaseRecord.name, func.avg(PhaseRecord.seconds)).where(PhaseRecord.finished_at > now - DAY)
    return [(name, float(mean or 0)) for name, mean in session.execute(query.group_by(PhaseRecord.name))]


def peaks_of_the_last_day(session: Session, now: datetime) -> Sequence[tuple[str, str, int]]:
    """Return (worker class, phase, most bytes that a child held on its device) of the phases that ended lately."""
    query = (
        select(Job.worker_class, PhaseRecord.name, func.max(PhaseRecord.peak_memory_bytes))
        .join(Job, Job.id == PhaseRecord.job_id)
        .where(PhaseRecord.finished_at > now - DAY, PhaseRecord.peak_memory_bytes > 0)
        .group_by(Job.worker_class, PhaseRecord.name)
    )
    return [(class_, name, peak or 0) for class_, name, peak in session.execute(query)]


def device_memory(session: Session, now: datetime) -> Sequence[tuple[str, str, int]]:
    """Return (worker class, device, bytes of memory of all its workers) of the workers that live."""
    query = (
        select(Worker.worker_class, Worker.device, func.sum(Worker.memory_bytes))
        .where(Worker.seen_at > now - GONE, Worker.memory_bytes.is_not(None))
        .group_by(Worker.worker_class, Worker.device)
    )
    return [(class_, device, int(memory or 0)) for class_, device, memory in session.execute(query)]


def live_workers(session: Session, now: datetime) -> dict[str, int]:
    """Return how many workers of each class live."""
    query = select(Worker.worker_class, func.count()).where(Worker.seen_at > now - GONE).group_by(Worker.worker_class)
    return {name: int(count) for name, count in session.execute(query)}


def lost_devices(session: Session, now: datetime) -> dict[str, int]:
    """Return how many workers of each class live and have a device that does not answer."""
    query = select(Worker.worker_class, func.count()).where(
        Worker.seen_at > now - GONE, Worker.device_lost_at.is_not(None)
    )
    return {name: int(count) for name, count in session.execute(query.group_by(Worker.worker_class))}


def last_sweep(session: Session) -> datetime | None:
    """Return when a reconciler last ended a sweep; None before the first one."""
    return session.scalar(select(Heartbeat.at).where(Heartbeat.name == SWEEP))


def note_sweep(session: Session) -> None:
    """Write down that a reconciler has just ended a sweep."""
    session.merge(Heartbeat(name=SWEEP, at=clock(session)))


def failures_of_the_last_day(session: Session, now: datetime) -> Sequence[tuple[str, int]]:
    """Return (error class, jobs that failed with it lately)."""
    class_ = Job.error["class"].as_string()
    query = select(class_, func.count()).where(Job.state == "failed", Job.finished_at > now - DAY).group_by(class_)
    return [(name or "unknown", count) for name, count in session.execute(query)]
