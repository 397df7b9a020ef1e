"""The audit log, newest first."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.dependencies import ProjectDep, ResourcesDep
from app.portal.deps import needs
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.services.tenancy import audit_log

router = APIRouter(prefix="/audit", dependencies=[needs("admin")])
NAVIGATION = MenuEntry("Audit", "/portal/audit", 110, "Operations", scope="admin")

PAGE = 100
PLACES = {"job_": "/portal/jobs/", "swp_": "/portal/sweeps/", "whk_": "/portal/webhooks/"}
"""Prefix of an id -> the page about it."""
Text = Annotated[str, Query(max_length=200)]


@router.get("")
def audit_page(
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    action: Text = "",
    actor: Text = "",
    before: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """List audit events; `action` filters by prefix."""
    action, actor = action.strip(), actor.strip()
    rows = audit_log.page(resources.database, project, before=before, limit=PAGE + 1, action=action, actor=actor)
    filters = {name: value for name, value in (("action", action), ("actor", actor)) if value}
    older = f"/portal/audit?{urlencode({**filters, 'before': rows[PAGE - 1].id})}" if len(rows) > PAGE else None
    return render(request, "audit.html", rows=rows[:PAGE], older=older, action=action, who=actor, page_about=page_about)


def page_about(resource_id: str) -> str | None:
    """Return the page about a resource, if it has one."""
    page = PLACES.get(resource_id[:4])
    return f"{page}{resource_id}" if page else None
