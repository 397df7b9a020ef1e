"""Statements about uploads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.queries.pages import newest
from app.db.upload import Upload


def get(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload | None:
    """Return an upload of a project."""
    query = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    return session.scalar(query.with_for_update() if lock else query)


def find(session: Session, upload_id: str) -> Upload | None:
    """Return an upload of any project."""
    return session.get(Upload, upload_id)


def page(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[Upload]:
    """Return the uploads of a project, newest first."""
    query = select(Upload).where(Upload.project_id == project_id)
    return newest(session, query, Upload.id, before=before, limit=limit)


def count_open(session: Session, project_id: str) -> int:
    """Return how many uploads of a project are not complete."""
    query = select(func.count()).select_from(Upload).where(Upload.project_id == project_id, Upload.state == "open")
    return int(session.scalar(query) or 0)


def stale(session: Session, before: datetime) -> Sequence[Upload]:
    """Return open uploads that nobody has gone on with."""
    return session.scalars(select(Upload).where(Upload.state == "open", Upload.touched_at < before).limit(100)).all()


def existing(session: Session, ids: Sequence[str]) -> set[str]:
    """Return which of these uploads are there."""
    return set(session.scalars(select(Upload.id).where(Upload.id.in_(ids))))


def stored_bytes(session: Session, project_id: str) -> int:
    """Return what the uploads of a project weigh, or will."""
    query = select(func.coalesce(func.sum(Upload.bytes), 0)).where(Upload.project_id == project_id)
    return int(session.scalar(query) or 0)
