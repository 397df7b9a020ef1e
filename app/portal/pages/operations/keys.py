"""API keys: made here, shown once, revoked here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.bodies.access import SCOPES, KeyRequest, Scope
from app.db.tenancy import Project
from app.dependencies import ActorDep, ResourcesDep
from app.errors import AppError
from app.platform.actor import Actor
from app.portal.checking import checked
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.services.resources import Resources
from app.services.tenancy import keys, projects

router = APIRouter(prefix="/keys", dependencies=[needs("admin")])
NAVIGATION = MenuEntry("Keys", "/portal/keys", 120, "Operations", scope="admin")

PAGE = 50
SCOPE_WORDS: Final[dict[Scope, str]] = {
    "jobs:read": "look at jobs, presets, sweeps, queues, usage",
    "jobs:write": "create and change jobs, plans, presets, sweeps",
    "jobs:cancel": "cancel, pause, resume",
    "artifacts:read": "list and download results",
    "models:write": "upload models and text, publish results",
    "hooks:manage": "sources of registry events, rules",
    "webhooks:manage": "endpoints that events are sent to",
    "admin": "all of these; keys, credentials, projects, audit",
}
LIFETIMES: Final = {"30": "30 days", "90": "90 days", "365": "a year", "": "no end"}
Before = Annotated[str | None, Query(max_length=64)]


@router.get("")
def keys_page(request: Request, actor: ActorDep, resources: ResourcesDep, before: Before = None) -> Response:
    """List keys, and offer to make one."""
    rows = keys.page(resources.database, actor, before=before, limit=PAGE + 1)
    older = f"/portal/keys?before={rows[PAGE - 1].id}" if len(rows) > PAGE else None
    return _render(request, rows=rows[:PAGE], projects=_projects(resources, actor), older=older)


def _projects(resources: Resources, actor: Actor) -> Sequence[Project]:
    return projects.page(resources.database, actor, before=None, limit=200)


def _render(request: Request, *, status: int = 200, **context: object) -> Response:
    common = {
        "scopes": {name: SCOPE_WORDS[name] for name in SCOPES},
        "lifetimes": LIFETIMES,
        "now": datetime.now(UTC),
        "refusal": None,
        "form": Form([]),
        "rows": [],
        "projects": [],
        "older": None,
        "made": None,
        "token": "",
    }
    return render(request, "keys.html", status=status, **{**common, **context})


@router.post("")
def create_key(request: Request, form: FormDep, actor: ActorDep, resources: ResourcesDep) -> Response:
    """Make a key, and show it this once."""
    days = form.get("days")
    ends = datetime.now(UTC) + timedelta(days=int(days)) if days in LIFETIMES and days else None
    fields = {
        "name": form.get("name").strip(),
        "scopes": form.all("scope"),
        "expires_at": ends,
        "project_id": form.get("project_id") or None,
    }
    try:
        body = checked(KeyRequest, fields)
        made, token = keys.create(
            resources.database, resources.settings, body, keys.project_of_new_key(actor, body.project_id)
        )
    except AppError as error:
        offered = _projects(resources, actor)
        return _render(request, status=error.status, refusal=error, form=form, projects=offered)
    return _render(request, status=201, made=made, token=token)


@router.post("/{key_id}/revoke")
def revoke_key(key_id: str, actor: ActorDep, resources: ResourcesDep) -> Response:
    """End a key."""
    keys.revoke(resources.database, actor, key_id)
    return RedirectResponse("/portal/keys", 303)
