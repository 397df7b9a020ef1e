"""Statements about publications: which is due, which are ours, which are under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from app.db.job import Job
from app.db.publication import Publication
from app.db.queries.pages import newest
from app.db.queries.round_robin import ProjectRoundRobin


def find(session: Session, publication_id: str, *, lock: bool = False) -> Publication | None:
    """Return a publication of any project; with `lock`, hold it until the end of the transaction."""
    return session.get(Publication, publication_id, with_for_update=lock or None)


def page(session: Session, job_id: str, *, before: str | None, limit: int) -> Sequence[Publication]:
    """Return the publications of a job, newest first."""
    query = select(Publication).where(Publication.job_id == job_id)
    return newest(session, query, Publication.id, before=before, limit=limit)


def lock_due(session: Session, now: datetime, rounds: ProjectRoundRobin) -> Publication | None:
    """Lock the next publication that is due: by turns of the projects, and one of each at a time."""
    pending = Publication.state == literal_column("'pending'")
    due = and_(
        pending, Publication.next_at <= now, or_(Publication.locked_until.is_(None), Publication.locked_until < now)
    )
    held = aliased(Publication)
    busy = select(held.project_id).where(held.state == literal_column("'pending'"), held.locked_until >= now)
    for project in rounds.round(session, Publication, and_(due, Publication.project_id.not_in(busy))):
        query = select(Publication).where(due, Publication.project_id == project).order_by(Publication.next_at)
        row = session.scalar(query.limit(1).with_for_update(skip_locked=True))
        if row is not None:
            return row
    return None


def has_reference(session: Session, project_id: str, references: Sequence[str]) -> bool:
    """Tell whether a version that bears one of these references is a publication of the project."""
    query = select(Publication.id).where(Publication.project_id == project_id, Publication.reference.in_(references))
    return session.scalar(query.limit(1)) is not None


def has_target(session: Session, project_id: str, target: Mapping[str, str]) -> bool:
    """Tell whether the project publishes, or has published, to a target that agrees with these fields."""
    query = select(Publication.id).where(Publication.project_id == project_id)
    for key, value in target.items():
        query = query.where(Publication.target[key].as_string() == value)
    return session.scalar(query.limit(1)) is not None


def under_way(session: Session, project_id: str, now: datetime) -> list[tuple[Publication, str]]:
    """Return the publications of a project that a publisher holds, and the model that the job of each compressed."""
    query = select(Publication, Job.model).join(Job, Job.id == Publication.job_id)
    held = Publication.project_id == project_id, Publication.state == "pending", Publication.locked_until > now
    return [(row, model) for row, model in session.execute(query.where(*held))]
