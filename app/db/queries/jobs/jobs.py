"""Statements that read jobs: one, a page of them, where they stand in the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.db.job import HELD, QUEUED, Attempt, Job


@dataclass(frozen=True)
class Filters:
    """Which jobs a list shows."""

    states: Sequence[str] = ()
    labels: Sequence[tuple[str, str]] = ()
    """All of these."""
    model: str | None = None
    method: str | None = None
    created_after: datetime | None = None
    """Inclusive."""
    created_before: datetime | None = None
    """Exclusive."""


def get(session: Session, project_id: str, job_id: str) -> Job | None:
    """Return a job of a project."""
    return session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))


def find(session: Session, job_id: str) -> Job | None:
    """Return a job of any project."""
    return session.get(Job, job_id)


def publishing(session: Session, project_id: str) -> list[Job]:
    """Return the jobs of a project that publish now."""
    query = select(Job).where(Job.project_id == project_id, HELD, Job.phase == "publishing")
    return list(session.scalars(query))


def newest_measured(session: Session, project_id: str, worker_class: str, *, limit: int) -> list[Job]:
    """Return the newest jobs of a class that succeeded by their own work and whose spec was resolved."""
    query = select(Job).where(
        Job.project_id == project_id,
        Job.worker_class == worker_class,
        Job.state == "succeeded",
        Job.reused_from.is_(None),
        Job.resolved_spec.is_not(None),
    )
    return list(session.scalars(query.order_by(Job.id.desc()).limit(limit)))


def page(session: Session, project_id: str, filters: Filters, *, before: str | None, limit: int) -> list[Job]:
    """Return jobs, newest first, that come after the job `before` in that order."""
    query = select(Job).where(Job.project_id == project_id)
    if before is not None:
        query = query.where(Job.id < before)
    if filters.states:
        query = query.where(Job.state.in_(filters.states))
    if filters.model is not None:
        query = query.where(Job.model == filters.model)
    if filters.method is not None:
        query = query.where(Job.method == filters.method)
    if filters.created_after is not None:
        query = query.where(Job.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(Job.created_at < filters.created_before)
    for key, value in filters.labels:
        query = query.where(Job.labels[key].as_string() == value)
    return list(session.scalars(query.order_by(Job.id.desc()).limit(limit)))


def count_queued(session: Session, project_id: str, worker_class: str) -> int:
    """Return how many jobs of a project wait for workers of a class."""
    query = select(func.count()).where(QUEUED, Job.project_id == project_id, Job.worker_class == worker_class)
    return session.scalar(query) or 0


def queue_position(session: Session, job: Job) -> int:
    """Return where one queued job stands in its project's queue for its class, 1 for the first; reads what is ahead.

    Projects take turns, so that what others queue puts nobody farther back in that queue.
    """
    ahead = or_(Job.turn < job.turn, and_(Job.turn == job.turn, Job.id < job.id))
    query = select(func.count()).where(
        QUEUED, Job.project_id == job.project_id, Job.worker_class == job.worker_class, ahead
    )
    return 1 + (session.scalar(query) or 0)


def queue_positions(session: Session, project_id: str, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the same for a page of a project's jobs, in one pass over its queue."""
    place = func.row_number().over(partition_by=Job.worker_class, order_by=(Job.turn, Job.id))
    queue = select(Job.id, place.label("place")).where(QUEUED, Job.project_id == project_id).subquery()
    rows = session.execute(select(queue.c.id, queue.c.place).where(queue.c.id.in_(job_ids)))
    return {row.id: row.place for row in rows}


def open_attempts(session: Session, job_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the attempts that still run began, by job."""
    query = select(Attempt.job_id, Attempt.started_at).where(Attempt.job_id.in_(job_ids), Attempt.finished_at.is_(None))
    return {row.job_id: row.started_at for row in session.execute(query)}


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many jobs are in each state."""
    rows = session.execute(select(Job.state, func.count()).group_by(Job.state))
    return {state: count for state, count in rows}  # noqa: C416 - rows are not tuples for the type checker
