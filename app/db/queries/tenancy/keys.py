"""Statements about keys, and whether what a caller came in with still opens anything."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.queries.pages import newest
from app.db.tenancy import ApiKey, PortalSession, Project


def with_project(session: Session, key_id: str) -> tuple[ApiKey, Project] | None:
    """Return a key and its project."""
    query = select(ApiKey, Project).join(Project, Project.id == ApiKey.project_id).where(ApiKey.id == key_id)
    row = session.execute(query).one_or_none()
    return (row[0], row[1]) if row else None


def ended(session: Session, keys: Collection[str], sessions: Collection[str], *, now: datetime) -> set[str]:
    """Return which of these keys, and of these sign-ins by their digests, open nothing any more."""
    valid = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > now))
    good = select(ApiKey.id).where(ApiKey.id.in_(keys), valid)
    signed_in = (
        select(PortalSession.digest)
        .outerjoin(ApiKey, ApiKey.id == PortalSession.key_id)
        .where(PortalSession.digest.in_(sessions), PortalSession.expires_at > now)
        .where(PortalSession.key_id.is_(None) | (ApiKey.id.is_not(None) & valid))
    )
    return {*keys, *sessions} - {*session.scalars(good), *session.scalars(signed_in)}


def note_use(session: Session, key_id: str, *, now: datetime) -> None:
    """Note that a key was used."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now))


def get(session: Session, key_id: str, *, project_id: str | None) -> ApiKey | None:
    """Return a key of a project, or of any."""
    query = select(ApiKey).where(ApiKey.id == key_id)
    return session.scalar(query if project_id is None else query.where(ApiKey.project_id == project_id))


def page(session: Session, project_id: str | None, *, before: str | None, limit: int) -> Sequence[ApiKey]:
    """Return the keys of a project, or of all, newest first."""
    query = select(ApiKey)
    if project_id is not None:
        query = query.where(ApiKey.project_id == project_id)
    return newest(session, query, ApiKey.id, before=before, limit=limit)
