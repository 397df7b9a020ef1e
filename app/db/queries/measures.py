"""Statements that count for operators."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.job import QUEUED, Job
from app.db.queries import webhooks
from app.db.queries.jobs import count_by_state
from app.db.result import PhaseRecord

DAY = timedelta(days=1)


def jobs_by_state(session: Session) -> dict[str, int]:
    """Return how many jobs are in each state."""
    return count_by_state(session)


def queues(session: Session) -> Sequence[tuple[str, int, datetime]]:
    """Return (worker class, queued jobs, since when the oldest waits)."""
    query = select(Job.worker_class, func.count(), func.min(Job.queued_at)).where(QUEUED).group_by(Job.worker_class)
    return [(name, count, oldest) for name, count, oldest in session.execute(query)]


def phases_of_the_last_day(session: Session, now: datetime) -> Sequence[tuple[str, float]]:
    """Return (phase, mean seconds) of the phases that ended lately."""
    query = select(PhaseRecord.name, func.avg(PhaseRecord.seconds)).where(PhaseRecord.finished_at > now - DAY)
    return [(name, float(mean or 0)) for name, mean in session.execute(query.group_by(PhaseRecord.name))]


def failures_of_the_last_day(session: Session, now: datetime) -> Sequence[tuple[str, int]]:
    """Return (error class, jobs that failed with it lately)."""
    class_ = Job.error["class"].as_string()
    query = select(class_, func.count()).where(Job.state == "failed", Job.finished_at > now - DAY).group_by(class_)
    return [(name or "unknown", count) for name, count in session.execute(query)]


def pending_deliveries(session: Session) -> int:
    """Return how many webhook deliveries wait."""
    return webhooks.count_pending(session)
