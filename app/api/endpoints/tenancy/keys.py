"""API keys: the answer that makes one shows it, and no other does."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Query as FromQuery

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.access import (
    KeyChange,
    KeyRequest,
)
from app.db.tenancy import ApiKey
from app.dependencies import ActorDep, ResourcesDep
from app.services.tenancy import keys

router = APIRouter(prefix="/v1", tags=["tenancy"])


class KeyView(View):
    """An API key, without its secret."""

    id: str
    project_id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """An API key that was just made."""

    key: str | None
    """Send it as `Authorization: Bearer <key>`. It is shown in the answer to this call alone."""


def _key(row: ApiKey) -> KeyView:
    return KeyView.model_validate(row)


@router.post("/api-keys", status_code=201, responses=again(NewKeyView))
def create_key(
    body: KeyRequest, response: Response, actor: ActorDep, resources: ResourcesDep, key: KeyDep
) -> NewKeyView:
    """Make an API key; the answer alone holds it."""
    project_id = keys.project_of_new_key(actor, body.project_id)
    database, settings = resources.database, resources.settings
    row, token = replayed(
        response,
        lambda: keys.create(database, settings, body, project_id, key=key),
        lambda made: keys.again(database, settings, actor, made, key),
    )
    response.headers["Location"] = f"/v1/api-keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(**_key(row).model_dump(), key=token)


@router.get("/api-keys")
def list_keys(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, actor: ActorDep, resources: ResourcesDep
) -> Page[KeyView]:
    """List API keys, newest first."""
    rows = keys.page(resources.database, actor, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, _key, lambda row: row.id)


@router.get("/api-keys/{key_id}")
def get_key(key_id: str, actor: ActorDep, resources: ResourcesDep) -> KeyView:
    """Show an API key."""
    return _key(keys.get(resources.database, actor, key_id))


@router.patch("/api-keys/{key_id}")
def change_key(key_id: str, body: KeyChange, actor: ActorDep, resources: ResourcesDep) -> KeyView:
    """Rename an API key, or let it end at another time."""
    return _key(keys.change(resources.database, actor, key_id, body))


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_key(key_id: str, actor: ActorDep, resources: ResourcesDep) -> None:
    """Revoke an API key: within five seconds it opens nothing."""
    keys.revoke(resources.database, actor, key_id)
