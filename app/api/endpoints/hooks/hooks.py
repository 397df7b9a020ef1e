"""Registry events: the address that registries call, and the sources that may."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Request, Response
from fastapi import Query as FromQuery
from starlette.concurrency import run_in_threadpool

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.hooks import SecretRotation, SourceChange, SourceRequest
from app.bodies.strict_json import parse
from app.db.hook import HookSource
from app.dependencies import ProjectDep, ResourcesDep
from app.services.hooks import inbox, sources
from app.services.resources import Resources

router = APIRouter(prefix="/v1", tags=["hooks"])
MAX_DELIVERY_VALUES = 50_000
"""Registries tell of every file of a push."""
SourceId = Annotated[str, Path(description="`src_` and a ULID.")]


class ReceivedView(View):
    """An event that was taken, and will be held against the rules of its source."""

    delivery_id: str
    duplicate: bool
    """The delivery was received before; the id is that of the first."""


class SourceView(View):
    """A registry whose events are taken."""

    id: str
    kind: str
    name: str
    path: str
    """Where the registry delivers to, below the address of this service."""
    old_secret_until: datetime | None
    """Until then the secret before is accepted, too."""
    created_at: datetime
    updated_at: datetime


class SourceWithSecretView(SourceView):
    """A source whose secret was just made; it is shown this once."""

    secret: str
    """Give it to the registry."""


@router.post(
    "/hooks/{source_id}",
    status_code=202,
    responses={200: {"model": ReceivedView, "description": "This event was here before."}},
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}, "required": True}},
)
async def receive(source_id: SourceId, request: Request, response: Response, resources: ResourcesDep) -> ReceivedView:
    """Take an event of a registry: verified as its kind verifies, written down, held against the rules later."""
    body = await request.body()
    taken = await run_in_threadpool(_take, resources, source_id, dict(request.headers), body)
    response.status_code = 200 if taken.duplicate else 202
    return ReceivedView.model_validate(taken)


def _take(resources: Resources, source_id: str, headers: dict[str, str], body: bytes) -> inbox.Recorded:
    source = inbox.verified(resources, source_id, headers, body)
    return inbox.receive(resources, source, headers, parse(body, max_values=MAX_DELIVERY_VALUES), body)


@router.post("/hook-sources", status_code=201, responses=again(SourceWithSecretView))
def create_source(
    body: SourceRequest, response: Response, resources: ResourcesDep, project: ProjectDep, key: KeyDep
) -> SourceWithSecretView:
    """Make a source."""
    row, secret = replayed(
        response,
        lambda: sources.create(resources, project, body, key=key),
        lambda made: sources.again(resources, project, made),
    )
    response.headers["Location"] = f"/v1/hook-sources/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return SourceWithSecretView(**_fields(row), secret=secret)


@router.get("/hook-sources")
def list_sources(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[SourceView]:
    """List sources, newest first."""
    rows = sources.page(resources, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, _view, lambda row: row.id)


@router.get("/hook-sources/{source_id}")
def get_source(source_id: SourceId, resources: ResourcesDep, project: ProjectDep) -> SourceView:
    """Show a source."""
    return _view(sources.get(resources, project, source_id))


@router.patch("/hook-sources/{source_id}")
def change_source(source_id: SourceId, body: SourceChange, resources: ResourcesDep, project: ProjectDep) -> SourceView:
    """Rename a source."""
    return _view(sources.change(resources, project, source_id, body))


@router.delete("/hook-sources/{source_id}", status_code=204)
def delete_source(source_id: SourceId, resources: ResourcesDep, project: ProjectDep) -> None:
    """Remove a source with its rules, deliveries and proposals."""
    sources.delete(resources, project, source_id)


@router.post("/hook-sources/{source_id}/rotate-secret")
def rotate_secret(
    source_id: SourceId,
    response: Response,
    resources: ResourcesDep,
    project: ProjectDep,
    body: Annotated[SecretRotation, Body()] = SecretRotation(),  # noqa: B008 - a frozen value
) -> SourceWithSecretView:
    """Make a new secret; for 24 hours, or as long as asked, deliveries with either are taken."""
    row, secret = sources.rotate(resources, project, source_id, body)
    response.headers["Cache-Control"] = "no-store"
    return SourceWithSecretView(**_fields(row), secret=secret)


def _fields(row: HookSource) -> dict[str, Any]:
    named = ("id", "kind", "name", "old_secret_until", "created_at", "updated_at")
    return {**{name: getattr(row, name) for name in named}, "path": f"/v1/hooks/{row.id}"}


def _view(row: HookSource) -> SourceView:
    return SourceView(**_fields(row))
