"""Same call, same work: an Idempotency-Key belongs to the first body that came with it, for a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.db.queries.requests import idempotency
from app.errors import IdempotencyKeyReused
from espalier.recipe.base import fingerprint

KEPT = timedelta(hours=24)


@dataclass(frozen=True)
class Key:
    """One Idempotency-Key in its scope, and the body that came with it."""

    project_id: str
    method: str
    path: str
    key: str
    body_sha256: str

    @classmethod
    def of(cls, project_id: str, method: str, path: str, *, key: str, body: Any) -> Key:  # noqa: ANN401 - JSON
        """Bind a key to the meaning of a body: white space and the order of members do not count."""
        return cls(project_id, method, path, key, fingerprint(body))


class AlreadyMade(Exception):
    """An equal call with the same key has made a resource before."""

    def __init__(self, resource_id: str) -> None:
        self.resource_id = resource_id
        super().__init__(resource_id)


def once(session: Session, key: Key | None, resource_id: str, *, now: datetime) -> None:
    """Bind a key to the resource that this transaction is about to make; raises AlreadyMade when there is one."""
    if key and (existing_id := claim(session, key, resource_id=resource_id, now=now)):
        raise AlreadyMade(existing_id)


def resource_of(session: Session, key: Key, *, now: datetime) -> str | None:
    """Return the resource that an equal call made; raises IdempotencyKeyReused when the body was another."""
    row = idempotency.find(session, key.project_id, key.method, key.path, key.key, newer_than=now - KEPT)
    if row is None:
        return None
    if row.body_sha256 != key.body_sha256:
        raise IdempotencyKeyReused
    return row.resource_id


def claim(session: Session, key: Key, *, resource_id: str, now: datetime) -> str | None:
    """Bind the key to a resource that this transaction makes; return the other resource when somebody was first.

    A parallel call with the same key waits here until this transaction ends: the unique constraint decides.
    """
    row = {
        "project_id": key.project_id,
        "method": key.method,
        "path": key.path,
        "key": key.key,
        "body_sha256": key.body_sha256,
        "resource_id": resource_id,
        "created_at": now,
    }
    if idempotency.insert_unless_there(session, row, older_than=now - KEPT):
        return None
    return resource_of(session, key, now=now)
