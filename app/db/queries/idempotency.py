"""Statements about Idempotency-Keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Delete, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.job import IdempotencyKey
from app.ids import new_id


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


def forget(session: Session, project_id: str, method: str, path: str, key: str, *, older_than: datetime) -> None:
    """Delete the row of a key that has expired."""
    statement: Delete = delete(IdempotencyKey).where(
        IdempotencyKey.project_id == project_id,
        IdempotencyKey.method == method,
        IdempotencyKey.path == path,
        IdempotencyKey.key == key,
        IdempotencyKey.created_at < older_than,
    )
    session.execute(statement.execution_options(synchronize_session=False))


def insert_unless_there(session: Session, row: dict[str, Any]) -> bool:
    """Insert a key and return True; False when the key is taken, after its transaction has ended."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(IdempotencyKey).values(id=new_id("idk"), **row).on_conflict_do_nothing()
    return session.scalar(statement.returning(IdempotencyKey.id)) is not None
