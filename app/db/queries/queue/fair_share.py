"""Fair share: projects share the workers of a class by what they used of them in the last hour."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.job import CLAIMABLE, HELD, Attempt, Job
from app.db.tenancy import RecentUsage

WINDOW_SECONDS = 3600
SLOT_SECONDS = 300
"""What is used is counted in slots of so long: the window is exact to one."""


def projects_by_usage(session: Session, worker_class: str, fits: ColumnElement[bool], *, now: datetime) -> list[str]:
    """Return the projects with a claimable job that fits, the one that used least of the class in the last hour first.

    Of projects that used the same, the one with fewer running jobs is first, then the one whose job is older. What is
    read grows with the projects that wait and not with their jobs: one entry of the index of each.
    """
    waiting = dict(_waiting(session, worker_class, fits))
    if len(waiting) < 2:
        return list(waiting)
    projects = sorted(waiting)
    seconds = dict(_used(session, worker_class, projects, now=now))
    running = dict.fromkeys(projects, 0)
    for project, began in _held(session, worker_class, projects):
        running[project] += 1
        seconds[project] = seconds.get(project, 0.0) + min(max((now - began).total_seconds(), 0.0), WINDOW_SECONDS)
    return sorted(projects, key=lambda one: (seconds.get(one, 0.0), running[one], waiting[one], one))


def note(session: Session, project_id: str, worker_class: str, *, began: datetime, ended: datetime) -> None:
    """Add an attempt that ends to what its project used lately."""
    since = max(began.timestamp(), ended.timestamp() - WINDOW_SECONDS)
    first, last = (int(at // SLOT_SECONDS) for at in (since, max(ended.timestamp(), since)))
    rows = [
        {
            "project_id": project_id,
            "worker_class": worker_class,
            "slot": number * SLOT_SECONDS,
            "seconds": max(min(ended.timestamp(), (number + 1) * SLOT_SECONDS) - max(since, number * SLOT_SECONDS), 0),
        }
        for number in range(first, last + 1)
    ]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(RecentUsage).values(rows)
    more = {"seconds": RecentUsage.seconds + statement.excluded["seconds"]}
    session.execute(statement.on_conflict_do_update(index_elements=["project_id", "worker_class", "slot"], set_=more))


def forget(session: Session, *, now: datetime) -> None:
    """Delete what no claim looks at any more."""
    session.execute(delete(RecentUsage).where(RecentUsage.slot < now.timestamp() - 2 * WINDOW_SECONDS))


def _waiting(session: Session, worker_class: str, fits: ColumnElement[bool]) -> Sequence[tuple[str, int]]:
    """Return the projects with a claimable job that fits, and the queue rank of the first such job of each."""
    of_class = and_(CLAIMABLE, Job.worker_class == worker_class)
    first = select(Job.project_id).where(of_class).order_by(Job.project_id).limit(1).scalar_subquery()
    projects = select(first.label("id")).cte("projects_that_wait", recursive=True)
    following = (
        select(Job.project_id)
        .where(of_class, Job.project_id > projects.c.id)
        .order_by(Job.project_id)
        .limit(1)
        .scalar_subquery()
    )
    projects = projects.union_all(select(following).where(projects.c.id.is_not(None)))
    rank = (
        select(Job.turn)
        .where(of_class, Job.project_id == projects.c.id, fits)
        .order_by(Job.turn, Job.id)
        .limit(1)
        .scalar_subquery()
    )
    query = select(projects.c.id, rank.label("rank")).where(projects.c.id.is_not(None))
    return [(row.id, row.rank) for row in session.execute(query) if row.rank is not None]


def _used(
    session: Session, worker_class: str, projects: Sequence[str], *, now: datetime
) -> Sequence[tuple[str, float]]:
    query = (
        select(RecentUsage.project_id, func.sum(RecentUsage.seconds))
        .where(
            RecentUsage.project_id.in_(projects),
            RecentUsage.worker_class == worker_class,
            RecentUsage.slot > now.timestamp() - WINDOW_SECONDS - SLOT_SECONDS,
        )
        .group_by(RecentUsage.project_id)
    )
    return [(project, float(seconds)) for project, seconds in session.execute(query)]


def _held(session: Session, worker_class: str, projects: Sequence[str]) -> Sequence[tuple[str, datetime]]:
    """Return the projects whose jobs run, and since when."""
    query = (
        select(Job.project_id, Attempt.started_at)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt))
        .where(HELD, Job.worker_class == worker_class, Job.project_id.in_(projects))
    )
    return [(project, began) for project, began in session.execute(query)]
