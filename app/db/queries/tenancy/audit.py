"""Statements about the audit log: who did what, written in the transaction that does it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.queries.pages import newest
from app.db.queries.tenancy import projects
from app.db.session import add_rows
from app.db.tenancy import AuditEvent
from app.platform import actor as actors
from app.platform.ids import new_id


def record(
    session: Session,
    action: str,
    resource_id: str,
    *,
    now: datetime,
    project_id: str | None = None,
    **data: object,
) -> None:
    """Write down that somebody did something, in the transaction that does it; the service itself is nobody.

    The project that it is done to is held: a deleted one ends whoever is still at work in it. Raises NotFound.
    """
    actor = actors.current()
    if actor is None:
        return
    project_id = project_id or actor.project_id
    projects.hold(session, project_id)
    add(session, action, resource_id, project_id=project_id, by=actor.document(), now=now, data=data)


def add(
    session: Session,
    action: str,
    resource_id: str,
    *,
    project_id: str,
    by: dict[str, Any],
    now: datetime,
    data: dict[str, Any],
) -> None:
    """Write down what somebody did who need not be here, or may be nobody that is known."""
    actor = actors.current()
    row = {
        "id": new_id("aud"),
        "project_id": project_id,
        "time": now,
        "actor": by,
        "action": action,
        "resource_id": resource_id,
        "request_id": actor.request_id if actor else None,
        "data": data,
    }
    add_rows(session, AuditEvent, [row])


def page(
    session: Session, project_id: str, *, before: str | None, limit: int, action: str = "", actor: str = ""
) -> Sequence[AuditEvent]:
    """Return what was done, newest first: all of it, or what an action begins with and somebody did."""
    query = select(AuditEvent).where(AuditEvent.project_id == project_id)
    if action:
        query = query.where(AuditEvent.action.startswith(action, autoescape=True))
    if actor:
        query = query.where(AuditEvent.actor["id"].as_string() == actor)
    return newest(session, query, AuditEvent.id, before=before, limit=limit)
