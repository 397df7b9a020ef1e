"""Statements about webhooks: who listens, what is due, in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal_column, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.job import Job
from app.db.queries.pages import newest
from app.db.session import add_rows, once
from app.db.webhook import WebhookDelivery, WebhookEndpoint
from app.platform.ids import new_id

SILENT = frozenset({"job.progress", "job.metric", "job.layer_completed", "job.checkpoint"})
"""Events that no webhook tells: they come many times a second."""


def enqueue(session: Session, job: Job, events: Sequence[dict[str, Any]], *, now: datetime) -> None:
    """Put events of a job into the outbox of every endpoint that listens, in the transaction of the events."""
    reported = [event for event in events if event["type"] not in SILENT]
    if not reported:
        return
    rows = [
        delivery(
            endpoint_id,
            job.project_id,
            event["id"],
            event["type"],
            _payload(job, event),
            subject=job.id,
            seq=event["seq"],
            now=now,
        )
        for endpoint_id, types in _listening(session, job.project_id)
        for event in reported
        if event["type"] in types or "*" in types
    ]
    if rows:
        add_rows(session, WebhookDelivery, rows)


def _listening(session: Session, project_id: str) -> list[tuple[str, list[str]]]:
    """Return the endpoints of a project."""
    query = select(WebhookEndpoint.id, WebhookEndpoint.events)
    query = query.where(WebhookEndpoint.project_id == project_id, WebhookEndpoint.enabled)
    return once(session, ("listening", project_id), lambda: [(id_, types) for id_, types in session.execute(query)])


def _payload(job: Job, event: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": job.id,
        "project_id": job.project_id,
        "name": job.name,
        "state": job.state,
        "labels": job.labels,
        "seq": event["seq"],
        "attempt": event["attempt"],
        "phase": event["phase"],
        "event": event["data"],
    }


def delivery(
    endpoint_id: str,
    project_id: str,
    message_id: str,
    type_: str,
    data: dict[str, Any],
    *,
    subject: str,
    seq: int,
    now: datetime,
) -> dict[str, Any]:
    """Return the row of a message to be delivered."""
    time = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = json.dumps({"type": type_, "timestamp": time, "data": data}, separators=(",", ":"))
    return {
        "id": new_id("dlv"),
        "endpoint_id": endpoint_id,
        "project_id": project_id,
        "message_id": message_id,
        "type": type_,
        "subject": subject,
        "seq": seq,
        "body": body,
        "state": "pending",
        "attempts": 0,
        "next_at": now,
        "locked_until": None,
        "log": [],
        "created_at": now,
        "delivered_at": None,
    }


def endpoint(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint | None:
    """Return an endpoint of a project."""
    return session.scalar(
        select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id)
    )


def endpoints(session: Session, project_id: str, *, before: str | None, limit: int) -> Sequence[WebhookEndpoint]:
    """Return the endpoints of a project, newest first."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id)
    return newest(session, query, WebhookEndpoint.id, before=before, limit=limit)


def deliveries(session: Session, endpoint_id: str, *, before: str | None, limit: int) -> Sequence[WebhookDelivery]:
    """Return the log of an endpoint, newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)
    return newest(session, query, WebhookDelivery.id, before=before, limit=limit)


def one_delivery(session: Session, endpoint_id: str, delivery_id: str) -> WebhookDelivery | None:
    """Return one delivery of an endpoint."""
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id)
    return session.scalar(query.with_for_update())


def due_endpoints(session: Session, now: datetime) -> list[tuple[str, str]]:
    """Return (project, endpoint) of the endpoints that have something due."""
    something = select(WebhookDelivery.id).where(
        WebhookDelivery.endpoint_id == WebhookEndpoint.id, _due(now), ~_behind_another()
    )
    query = select(WebhookEndpoint.project_id, WebhookEndpoint.id).where(WebhookEndpoint.enabled, something.exists())
    return [(project, endpoint_id) for project, endpoint_id in session.execute(query.order_by(WebhookEndpoint.id))]


def claim_due(
    session: Session, now: datetime, endpoint_id: str, *, limit: int, lease_seconds: float
) -> list[tuple[WebhookDelivery, WebhookEndpoint]]:
    """Lock what is due at an endpoint: of each job the oldest only."""
    query = (
        select(WebhookDelivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookDelivery.endpoint_id == endpoint_id, _due(now), ~_behind_another())
        .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    )
    taken = [(row, endpoint_) for row, endpoint_ in session.execute(query)]
    for row, _ in taken:
        row.locked_until = now + timedelta(seconds=lease_seconds)
    return taken


def _due(now: datetime) -> ColumnElement[bool]:
    return and_(
        WebhookDelivery.state == literal_column("'pending'"),
        WebhookDelivery.next_at <= now,
        or_(WebhookDelivery.locked_until.is_(None), WebhookDelivery.locked_until < now),
    )


def _behind_another() -> ColumnElement[bool]:
    """Return whether an earlier event of the same job is still to be delivered: they are sent in order."""
    preceding = aliased(WebhookDelivery)
    return (
        select(preceding.id)
        .where(
            preceding.endpoint_id == WebhookDelivery.endpoint_id,
            preceding.subject == WebhookDelivery.subject,
            preceding.seq < WebhookDelivery.seq,
            preceding.state == "pending",
        )
        .exists()
    )


def postpone(session: Session, delivery_id: str, *, now: datetime, seconds: float, most_attempts: int) -> None:
    """Defer a delivery whose sending raised; after so many attempts it has failed."""
    attempts = WebhookDelivery.attempts + 1
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(
            attempts=attempts,
            locked_until=None,
            next_at=now + timedelta(seconds=seconds),
            state=case((attempts >= most_attempts, "failed"), else_=WebhookDelivery.state),
        )
    )


def fail_pending(session: Session, endpoint_id: str) -> None:
    """Give up what waits for an endpoint that wants nothing any more."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.state == "pending")
        .values(state="failed")
    )


def count_pending(session: Session) -> int:
    """Return how many deliveries wait."""
    query = select(func.count()).select_from(WebhookDelivery).where(WebhookDelivery.state == "pending")
    return session.scalar(query) or 0
