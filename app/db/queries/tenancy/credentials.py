"""Statements about the sealed secrets of projects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tenancy import Credential


def find(session: Session, project_id: str, kind: str) -> Credential | None:
    """Return one sealed secret of a project."""
    return session.get(Credential, (project_id, kind), populate_existing=True)


def every(session: Session, project_id: str) -> Sequence[Credential]:
    """Return the sealed secrets of a project."""
    return session.scalars(
        select(Credential).where(Credential.project_id == project_id).order_by(Credential.kind)
    ).all()


def put(session: Session, project_id: str, kind: str, *, sealed: str, hint: str, now: datetime) -> Credential:
    """Keep a sealed secret in place of the one before."""
    return session.merge(Credential(project_id=project_id, kind=kind, sealed=sealed, hint=hint, updated_at=now))
