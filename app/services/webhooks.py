"""Webhook endpoints: made, changed, tested, their secrets rotated, their deliveries repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.bodies.webhook import EndpointChange, EndpointRequest
from app.db.queries.connections import webhooks
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.db.webhook import WebhookDelivery, WebhookEndpoint
from app.errors import InvalidRequest, NotFound
from app.platform.ids import new_id
from app.platform.outbound import ForbiddenAddress, check_literal, parse
from app.platform.signing import new_secret
from app.services import idempotency
from app.services.idempotency import Key
from app.services.resources import Resources
from app.services.tenancy.encryption import decrypt, encrypt
from app.settings import Settings
from app.settings_rules import networks
from espalier.errors import Problem

OVERLAP = timedelta(hours=24)
"""How long a replaced secret signs beside the new one."""


def create(
    resources: Resources, project_id: str, request: EndpointRequest, *, key: Key | None = None
) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint and return it with its secret; raises InvalidRequest on an address that is never called."""
    check_url(request.url, resources.settings)
    secret = request.secret or new_secret()
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = WebhookEndpoint(
            id=new_id("whk"),
            project_id=project_id,
            url=request.url,
            events=sorted(set(request.events)),
            description=request.description,
            enabled=True,
            disabled_reason=None,
            secret=encrypt(resources.settings, secret),
            old_secret=None,
            old_secret_until=None,
            created_at=now,
            updated_at=now,
        )
        idempotency.once(session, key, row.id, now=now)
        session.add(row)
        audit.record(session, "webhook_endpoint.create", row.id, now=now, url=row.url)
    return row, secret


def again(resources: Resources, project_id: str, endpoint_id: str) -> tuple[WebhookEndpoint, str]:
    """Return what an equal call has made, with its secret; raises NotFound."""
    row = get(resources, project_id, endpoint_id)
    return row, decrypt(resources.settings, row.secret)


def check_url(url: str, settings: Settings) -> None:
    """Refuse what no look-up is needed to refuse; names are looked up and checked at every delivery."""
    try:
        check_literal(parse(url), networks(settings.webhook_allowed_cidrs))
    except ForbiddenAddress as error:
        raise InvalidRequest(
            "The service does not call this address.", items=[Problem("/url", "forbidden-address", str(error))]
        ) from None


def get(resources: Resources, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Return an endpoint; raises NotFound."""
    with resources.database.reading() as session:
        return _require(session, project_id, endpoint_id)


def page(resources: Resources, project_id: str, *, before: str | None, limit: int) -> Sequence[WebhookEndpoint]:
    """Return the endpoints of a project, newest first."""
    with resources.database.reading() as session:
        return webhooks.endpoints(session, project_id, before=before, limit=limit)


def deliveries(
    resources: Resources, project_id: str, endpoint_id: str, *, before: str | None, limit: int
) -> Sequence[WebhookDelivery]:
    """Return the log of an endpoint, newest first; raises NotFound."""
    with resources.database.reading() as session:
        row = _require(session, project_id, endpoint_id)
        return webhooks.deliveries(session, row.id, before=before, limit=limit)


def change(resources: Resources, project_id: str, endpoint_id: str, request: EndpointChange) -> WebhookEndpoint:
    """Change an endpoint; one that is enabled again goes on with what waits."""
    if request.url is not None:
        check_url(request.url, resources.settings)
    with _changing(resources, project_id, endpoint_id, "change") as (_, row, _now):
        row.url = request.url or row.url
        row.events = sorted(set(request.events)) if request.events else row.events
        row.description = row.description if request.description is None else request.description
        if request.enabled is not None:
            row.enabled = request.enabled
            row.disabled_reason = None if request.enabled else "by its owner"
    return row


def delete(resources: Resources, project_id: str, endpoint_id: str) -> None:
    """Remove an endpoint and its log."""
    with _changing(resources, project_id, endpoint_id, "delete") as (session, row, _now):
        session.delete(row)


def rotate(resources: Resources, project_id: str, endpoint_id: str) -> tuple[WebhookEndpoint, str]:
    """Give an endpoint a new secret; for a day the old one signs beside it."""
    secret = new_secret()
    with _changing(resources, project_id, endpoint_id, "rotate_secret") as (_, row, now):
        row.old_secret, row.old_secret_until = row.secret, now + OVERLAP
        row.secret = encrypt(resources.settings, secret)
    return row, secret


def test(resources: Resources, project_id: str, endpoint_id: str) -> WebhookDelivery:
    """Send an endpoint a message of the type `webhook.test`."""
    with _changing(resources, project_id, endpoint_id, "test") as (session, row, now):
        message_id = new_id("evt")
        fields = webhooks.delivery(
            row.id, project_id, message_id, "webhook.test", {"id": row.id}, subject=message_id, seq=0, now=now
        )
        sent = WebhookDelivery(**fields)
        session.add(sent)
    return sent


def redeliver(resources: Resources, project_id: str, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a message again, whatever became of it; it keeps its id."""
    with _changing(resources, project_id, endpoint_id, "redeliver") as (session, row, now):
        sent = webhooks.one_delivery(session, row.id, delivery_id)
        if sent is None:
            raise NotFound
        sent.state, sent.attempts, sent.next_at, sent.delivered_at = "pending", 0, now, None
    return sent


def delivery(resources: Resources, project_id: str, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Return one delivery; raises NotFound."""
    with resources.database.reading() as session:
        row = webhooks.one_delivery(session, _require(session, project_id, endpoint_id).id, delivery_id)
    if row is None:
        raise NotFound
    return row


@contextmanager
def _changing(
    resources: Resources, project_id: str, endpoint_id: str, verb: str
) -> Iterator[tuple[Session, WebhookEndpoint, datetime]]:
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = _require(session, project_id, endpoint_id)
        yield session, row, now
        if verb in {"change", "rotate_secret"}:
            row.updated_at = now
        audit.record(session, f"webhook_endpoint.{verb}", endpoint_id, now=now)


def _require(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    row = webhooks.endpoint(session, project_id, endpoint_id)
    if row is None:
        raise NotFound
    return row
