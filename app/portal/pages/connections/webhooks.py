"""Outgoing webhooks: endpoints, their secrets and deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.bodies.webhook import EndpointChange, EndpointRequest, EventType
from app.dependencies import ProjectDep, ResourcesDep
from app.errors import AppError
from app.portal.checking import checked
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.services import webhooks
from app.services.resources import Resources

router = APIRouter(prefix="/webhooks", dependencies=[needs("webhooks:manage")])
NAVIGATION = MenuEntry("Webhooks", "/portal/webhooks", 70, "Automation", scope="webhooks:manage")

HOME: Final = "/portal/webhooks"
PAGE = 50
EVENTS: Final[tuple[str, ...]] = tuple(name for name in get_args(EventType) if name != "*")
Before = Annotated[str | None, Query(max_length=64)]


@router.get("")
def endpoints_page(request: Request, resources: ResourcesDep, project: ProjectDep, before: Before = None) -> Response:
    """List endpoints, and offer to make one."""
    return _list(request, resources, project, before=before)


def _list(
    request: Request,
    resources: Resources,
    project: str,
    *,
    before: str | None = None,
    form: Form | None = None,
    refusal: AppError | None = None,
) -> Response:
    rows = webhooks.page(resources, project, before=before, limit=PAGE + 1)
    older = f"{HOME}?before={rows[PAGE - 1].id}" if len(rows) > PAGE else None
    return render(
        request,
        "webhooks.html",
        status=refusal.status if refusal else 200,
        rows=rows[:PAGE],
        older=older,
        form=form or Form([]),
        refusal=refusal,
        events=EVENTS,
    )


def _fields(form: Form) -> dict[str, Any]:
    picked = form.all("event")
    return {
        "url": form.get("url").strip(),
        "description": form.get("description").strip(),
        "events": picked or ["*"],
    }


@router.post("")
def create_endpoint(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Make an endpoint, and show its secret this once."""
    try:
        row, secret = webhooks.create(resources, project, checked(EndpointRequest, _fields(form)))
    except AppError as error:
        return _list(request, resources, project, form=form, refusal=error)
    return render(request, "webhook_secret.html", status=201, endpoint=row, secret=secret, rotated=False)


@router.get("/{endpoint_id}")
def endpoint_page(
    request: Request, endpoint_id: str, resources: ResourcesDep, project: ProjectDep, before: Before = None
) -> Response:
    """Show an endpoint and its deliveries."""
    return _one(request, resources, project, endpoint_id, before=before)


def _one(
    request: Request,
    resources: Resources,
    project: str,
    endpoint_id: str,
    *,
    before: str | None = None,
    form: Form | None = None,
    refusal: AppError | None = None,
) -> Response:
    endpoint = webhooks.get(resources, project, endpoint_id)
    rows = webhooks.deliveries(resources, project, endpoint.id, before=before, limit=PAGE + 1)
    older = f"{HOME}/{endpoint.id}?before={rows[PAGE - 1].id}" if len(rows) > PAGE else None
    return render(
        request,
        "webhook.html",
        status=refusal.status if refusal else 200,
        endpoint=endpoint,
        rows=rows[:PAGE],
        older=older,
        form=form,
        refusal=refusal,
        events=EVENTS,
    )


@router.post("/{endpoint_id}")
def change_endpoint(
    request: Request, endpoint_id: str, form: FormDep, resources: ResourcesDep, project: ProjectDep
) -> Response:
    """Change address, description and events."""
    try:
        webhooks.change(resources, project, endpoint_id, checked(EndpointChange, _fields(form)))
    except AppError as error:
        return _one(request, resources, project, endpoint_id, form=form, refusal=error)
    return _back(endpoint_id)


@router.post("/{endpoint_id}/enable")
def enable(endpoint_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Deliver again, what waits first."""
    webhooks.change(resources, project, endpoint_id, EndpointChange(enabled=True))
    return _back(endpoint_id)


@router.post("/{endpoint_id}/disable")
def disable(endpoint_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Deliver nothing for now."""
    webhooks.change(resources, project, endpoint_id, EndpointChange(enabled=False))
    return _back(endpoint_id)


@router.post("/{endpoint_id}/delete")
def delete(endpoint_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Remove an endpoint and its log."""
    webhooks.delete(resources, project, endpoint_id)
    return RedirectResponse(HOME, 303)


@router.post("/{endpoint_id}/test")
def test(endpoint_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Send a message of the type `webhook.test`."""
    webhooks.test(resources, project, endpoint_id)
    return _back(endpoint_id)


@router.post("/{endpoint_id}/rotate")
def rotate(request: Request, endpoint_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Make a new secret, and show it this once."""
    row, secret = webhooks.rotate(resources, project, endpoint_id)
    return render(request, "webhook_secret.html", endpoint=row, secret=secret, rotated=True)


@router.post("/{endpoint_id}/deliveries/{delivery_id}/redeliver")
def redeliver(endpoint_id: str, delivery_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Send a message again, under the same id."""
    webhooks.redeliver(resources, project, endpoint_id, delivery_id)
    return _back(endpoint_id)


def _back(endpoint_id: str) -> Response:
    return RedirectResponse(f"{HOME}/{endpoint_id}", 303)
