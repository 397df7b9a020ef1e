"""Statements about what projects hold and use, and whether their quotas let them start more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.job import HELD, PAUSED, QUEUED, Job
from app.db.queries.requests import uploads
from app.db.result import Artifact
from app.db.tenancy import Project, UsageDay


def count_queued(session: Session, project_id: str) -> int:
    """Return how many jobs of a project wait."""
    return session.scalar(select(func.count()).select_from(Job).where(QUEUED, Job.project_id == project_id)) or 0


def count_waiting(session: Session, project_id: str) -> int:
    """Return how many jobs of a project wait, queued or paused."""
    counts = [
        select(func.count()).where(state, Job.project_id == project_id).scalar_subquery() for state in (QUEUED, PAUSED)
    ]
    return session.scalar(select(counts[0] + counts[1])) or 0


def count_held(session: Session, project_id: str) -> int:
    """Return how many jobs of a project a worker holds."""
    return session.scalar(select(func.count()).select_from(Job).where(HELD, Job.project_id == project_id)) or 0


def stored_bytes(session: Session, project_id: str) -> int:
    """Return what the results of a project weigh, each object once, and its uploads."""
    objects = select(Artifact.key, Artifact.bytes).where(Artifact.project_id == project_id).distinct().subquery()
    results = int(session.scalar(select(func.coalesce(func.sum(objects.c.bytes), 0))) or 0)
    return results + uploads.stored_bytes(session, project_id)


def since(session: Session, project_id: str, day: str) -> tuple[float, float, int]:
    """Return GPU seconds, CPU seconds and attempts from a day on."""
    query = select(func.sum(UsageDay.gpu_seconds), func.sum(UsageDay.cpu_seconds), func.sum(UsageDay.attempts))
    gpu, cpu, attempts = session.execute(query.where(UsageDay.project_id == project_id, UsageDay.day >= day)).one()
    return float(gpu or 0), float(cpu or 0), int(attempts or 0)


def by_day(session: Session, project_id: str, day: str) -> Sequence[UsageDay]:
    """Return what was used on each day from one on."""
    query = select(UsageDay).where(UsageDay.project_id == project_id, UsageDay.day >= day)
    return session.scalars(query.order_by(UsageDay.day)).all()


def charge(session: Session, project_id: str, *, seconds: float, gpu: bool, now: datetime) -> None:
    """Add an attempt to what a project used today."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = {
        "project_id": project_id,
        "day": now.date().isoformat(),
        "gpu_seconds": seconds if gpu else 0.0,
        "cpu_seconds": 0.0 if gpu else seconds,
        "attempts": 1,
    }
    statement = dialect.insert(UsageDay).values(row)
    more = {
        name: getattr(UsageDay, name) + statement.excluded[name] for name in ("gpu_seconds", "cpu_seconds", "attempts")
    }
    session.execute(statement.on_conflict_do_update(index_elements=["project_id", "day"], set_=more))


def month(now: datetime) -> str:
    """Return the first day of the month, as usage rows name it."""
    return now.date().replace(day=1).isoformat()


def capped(session: Session, now: datetime) -> list[str]:
    """Return the projects that may start no further job now."""
    return [project_id for project_id, reached in bounded(session, None, now).items() if reached]


def bounded(session: Session, project_ids: Sequence[str] | None, now: datetime) -> dict[str, bool]:
    """Return which of some projects, or of all, have a bound on what they may start, and whether it is reached."""
    query = select(Project.id, _reached(now)).where(
        or_(Project.max_running_jobs.is_not(None), Project.max_gpu_seconds.is_not(None))
    )
    if project_ids is not None:
        if not project_ids:
            return {}
        query = query.where(Project.id.in_(project_ids))
    return {project_id: bool(reached) for project_id, reached in session.execute(query.order_by(Project.id))}


def is_capped(session: Session, project_id: str, now: datetime) -> bool:
    """Tell the same of one project, whose row is held until the end of the transaction."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update(key_share=True))
    return bool(session.scalar(select(_reached(now)).where(Project.id == project_id)))


def _reached(now: datetime) -> ColumnElement[bool]:
    held = select(func.count()).select_from(Job).where(HELD, Job.project_id == Project.id)
    gpu = select(func.coalesce(func.sum(UsageDay.gpu_seconds), 0.0))
    gpu = gpu.where(UsageDay.project_id == Project.id, UsageDay.day >= month(now))
    return or_(
        and_(Project.max_running_jobs.is_not(None), held.scalar_subquery() >= Project.max_running_jobs),
        and_(Project.max_gpu_seconds.is_not(None), gpu.scalar_subquery() >= Project.max_gpu_seconds),
    )


def has_rested(session: Session, now: datetime) -> bool:
    """Tell whether a queued job still says that it waits for the end of a pause that is over."""
    return session.scalar(select(Job.id).where(*_rested(now)).limit(1)) is not None


def _rested(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return QUEUED, Job.wait_reason == "backoff", Job.not_before <= now


def mark_waiting(session: Session, capped_ids: Sequence[str], now: datetime) -> None:
    """Set the wait reason of queued jobs: a pause, a worker, or their project's quota."""
    session.execute(update(Job).where(*_rested(now)).values(wait_reason="capacity"))
    waits = QUEUED, Job.wait_reason == "capacity", Job.project_id.in_(capped_ids)
    if capped_ids:
        session.execute(update(Job).where(*waits).values(wait_reason="quota"))
    free = QUEUED, Job.wait_reason == "quota", Job.project_id.not_in(capped_ids)
    session.execute(update(Job).where(*free).values(wait_reason="capacity"))
