"""Statements about projects: held while somebody works in them, and deleted with all that they own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy import Table, delete, func, select
from sqlalchemy.orm import Session

from app.db import hook, planning, publication, reuse, upload, webhook  # noqa: F401 - fills the metadata
from app.db.base import Base
from app.db.job import Job
from app.db.lifecycle import TERMINAL
from app.db.queries.pages import newest
from app.db.tenancy import AuditEvent, Project
from app.errors import NotFound

_HELD: Final = "held projects"


def hold(session: Session, project_id: str) -> None:
    """Keep a project from being deleted before this transaction ends; raises NotFound when it is gone already."""
    held: set[str] = session.info.setdefault(_HELD, set())
    if project_id in held:
        return
    query = select(Project.id).where(Project.id == project_id).with_for_update(read=True, key_share=True)
    with session.no_autoflush:
        if session.scalar(query) is None:
            raise NotFound("The project is not there any more.")
    held.add(project_id)


def page(session: Session, project_id: str | None, *, before: str | None, limit: int) -> Sequence[Project]:
    """Return one project, or all, newest first."""
    query = select(Project)
    if project_id is not None:
        query = query.where(Project.id == project_id)
    return newest(session, query, Project.id, before=before, limit=limit)


def ids(session: Session) -> set[str]:
    """Return the ids of all projects."""
    return set(session.scalars(select(Project.id)))


def get(session: Session, project_id: str, *, lock: bool = False) -> Project | None:
    """Return a project; with `lock`, hold its row until the end of the transaction, beside those who `hold` it."""
    query = select(Project).where(Project.id == project_id).execution_options(populate_existing=True)
    return session.scalar(query.with_for_update(key_share=True) if lock else query)


def wait_for_holders(session: Session, project_id: str) -> None:
    """Wait until nobody holds a project any more, and let nobody hold it before this transaction ends."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())


def unfinished_jobs(session: Session, project_id: str) -> int:
    """Return how many jobs of a project are not over."""
    query = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.state.not_in(TERMINAL))
    return session.scalar(query) or 0


def delete_project(session: Session, project_id: str) -> None:
    """Remove a project, whose row this transaction holds, with all that belongs to it; the audit log stays."""
    delete_owned(session, project_id)
    session.execute(delete(Project).where(Project.id == project_id))


def delete_owned(session: Session, project_id: str) -> None:
    """Remove all that belongs to a project but the audit log."""
    for table in _owned():
        session.execute(delete(table).where(table.c.project_id == project_id))


def ownerless(session: Session) -> set[str]:
    """Return the projects that are not there and own something all the same."""
    there, owners = select(Project.id), set()
    for table in _owned():
        query = select(table.c.project_id).where(table.c.project_id.not_in(there)).distinct()
        owners |= set(session.scalars(query))
    return owners


def _owned() -> Iterator[Table]:
    """Return the tables whose rows a project owns; rows that refer to theirs, most of all, are deleted with them."""
    for table in Base.metadata.sorted_tables:
        if "project_id" in table.c and not table.foreign_keys and table.name != AuditEvent.__tablename__:
            yield table
