"""Statements about Idempotency-Keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.job import IdempotencyKey
from app.platform.ids import new_id


def find(
    session: Session, project_id: str, method: str, path: str, key: str, *, newer_than: datetime
) -> IdempotencyKey | None:
    """Return the row of a key that has not expired."""
    return session.scalar(
        select(IdempotencyKey).where(
            IdempotencyKey.project_id == project_id,
            IdempotencyKey.method == method,
            IdempotencyKey.path == path,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at >= newer_than,
        )
    )


def insert_unless_there(session: Session, row: dict[str, Any], *, older_than: datetime) -> bool:
    """Insert a key, or take over an expired one, and return True; False when the key is taken.

    A key that another open transaction inserts is waited for.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(IdempotencyKey).values(id=new_id("idk"), **row)
    statement = statement.on_conflict_do_update(
        index_elements=["project_id", "method", "path", "key"],
        set_={name: statement.excluded[name] for name in ("body_sha256", "resource_id", "created_at")},
        where=IdempotencyKey.created_at < older_than,
    )
    return session.scalar(statement.returning(IdempotencyKey.id)) is not None


def forget(session: Session, *, older_than: datetime) -> None:
    """Delete keys that have expired."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < older_than))
