"""Outgoing webhooks (Standard Webhooks 1.0.0): endpoints, their secrets and deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from fastapi import Query as FromQuery

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.webhook import EndpointChange, EndpointRequest
from app.db.webhook import WebhookDelivery
from app.dependencies import ProjectDep, ResourcesDep
from app.services import webhooks

router = APIRouter(prefix="/v1/webhook-endpoints", tags=["webhooks"])

EndpointId = Annotated[str, Path(description="`whk_` and a ULID.")]
DeliveryId = Annotated[str, Path(description="`dlv_` and a ULID.")]


class EndpointView(View):
    """A URL that hears of events."""

    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None
    """`gone`: it answered 410."""
    old_secret_until: datetime | None
    """Until then messages are signed with the secret before, too."""
    created_at: datetime
    updated_at: datetime


class EndpointWithSecretView(EndpointView):
    """An endpoint whose secret was just made; it is shown this once."""

    secret: str
    """Verify with it: `webhook-signature` is `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`."""


class DeliveryAttemptView(View):
    """One try."""

    time: datetime
    status: int | None
    seconds: float
    error: str | None
    answer: str | None
    """The beginning of what came back."""


class DeliveryView(View):
    """One message for one endpoint."""

    id: str
    endpoint_id: str
    message_id: str
    """The header `webhook-id`: the same at every attempt and redelivery."""
    type: str
    body: str
    """As it was signed."""
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    next_at: datetime | None
    """Null when no further attempt will be made."""
    log: list[DeliveryAttemptView]
    created_at: datetime
    delivered_at: datetime | None


def _delivery(row: WebhookDelivery) -> DeliveryView:
    fields: dict[str, Any] = {name: getattr(row, name) for name in DeliveryView.model_fields}
    return DeliveryView.model_validate(fields | {"next_at": row.next_at if row.state == "pending" else None})


@router.post("", status_code=201, responses=again(EndpointWithSecretView))
def create_endpoint(
    body: EndpointRequest, response: Response, resources: ResourcesDep, project: ProjectDep, key: KeyDep
) -> EndpointWithSecretView:
    """Make an endpoint."""
    row, secret = replayed(
        response,
        lambda: webhooks.create(resources, project, body, key=key),
        lambda made: webhooks.again(resources, project, made),
    )
    response.headers["Location"] = f"/v1/webhook-endpoints/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return EndpointWithSecretView(**EndpointView.model_validate(row).model_dump(), secret=secret)


@router.get("")
def list_endpoints(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[EndpointView]:
    """List endpoints, newest first."""
    rows = webhooks.page(resources, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, EndpointView.model_validate, lambda row: row.id)


@router.get("/{endpoint_id}")
def get_endpoint(endpoint_id: EndpointId, resources: ResourcesDep, project: ProjectDep) -> EndpointView:
    """Show an endpoint."""
    return EndpointView.model_validate(webhooks.get(resources, project, endpoint_id))


@router.patch("/{endpoint_id}")
def change_endpoint(
    endpoint_id: EndpointId, body: EndpointChange, resources: ResourcesDep, project: ProjectDep
) -> EndpointView:
    """Change an endpoint, disable it, or enable it again."""
    return EndpointView.model_validate(webhooks.change(resources, project, endpoint_id, body))


@router.delete("/{endpoint_id}", status_code=204)
def delete_endpoint(endpoint_id: EndpointId, resources: ResourcesDep, project: ProjectDep) -> None:
    """Remove an endpoint and its log."""
    webhooks.delete(resources, project, endpoint_id)


@router.post("/{endpoint_id}/test", status_code=202)
def test_endpoint(endpoint_id: EndpointId, resources: ResourcesDep, project: ProjectDep) -> DeliveryView:
    """Send a message of the type `webhook.test`."""
    return _delivery(webhooks.test(resources, project, endpoint_id))


@router.post("/{endpoint_id}/rotate-secret")
def rotate_secret(
    endpoint_id: EndpointId, response: Response, resources: ResourcesDep, project: ProjectDep
) -> EndpointWithSecretView:
    """Make a new secret; for 24 hours every message carries a signature of each."""
    row, secret = webhooks.rotate(resources, project, endpoint_id)
    response.headers["Cache-Control"] = "no-store"
    return EndpointWithSecretView(**EndpointView.model_validate(row).model_dump(), secret=secret)


@router.get("/{endpoint_id}/deliveries")
def list_deliveries(
    endpoint_id: EndpointId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[DeliveryView]:
    """List deliveries, sent and pending, newest first."""
    before = pager.position(query)
    rows = webhooks.deliveries(resources, project, endpoint_id, before=before, limit=query.limit + 1)
    return pager.page(query, rows, _delivery, lambda row: row.id)


@router.get("/{endpoint_id}/deliveries/{delivery_id}")
def get_delivery(
    endpoint_id: EndpointId, delivery_id: DeliveryId, resources: ResourcesDep, project: ProjectDep
) -> DeliveryView:
    """Show a delivery and its attempts."""
    return _delivery(webhooks.delivery(resources, project, endpoint_id, delivery_id))


@router.post("/{endpoint_id}/deliveries/{delivery_id}/redeliver", status_code=202)
def redeliver(
    endpoint_id: EndpointId, delivery_id: DeliveryId, resources: ResourcesDep, project: ProjectDep
) -> DeliveryView:
    """Send a message again, under the same id."""
    return _delivery(webhooks.redeliver(resources, project, endpoint_id, delivery_id))
