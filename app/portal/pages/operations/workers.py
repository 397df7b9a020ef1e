"""Queues and workers, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.dependencies import ActorDep, ResourcesDep
from app.portal.deps import needs
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.services import workers
from app.services.events import event_cursor

router = APIRouter(prefix="/workers", dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Workers and queues", "/portal/workers", 90, "Operations")

PAGE = 100


@router.get("")
def workers_page(
    request: Request,
    resources: ResourcesDep,
    actor: ActorDep,
    after: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Show queues and workers; a script of ours gets the tables alone."""
    mark = event_cursor.of_now(resources.database)
    now, queues = workers.queues(resources)
    rows = workers.page(resources, actor, after=after, limit=PAGE + 1)
    template = "workers_tables.html" if request.headers.get("hx-request") else "workers.html"
    return render(
        request,
        template,
        queues=queues,
        now=now,
        rows=rows[:PAGE],
        mark=mark,
        first=not after,
        operates=actor.is_operator,
        more=f"/portal/workers?after={rows[PAGE - 1].worker.id}" if len(rows) > PAGE else None,
        here_url=f"/portal/workers?after={after}" if after else "/portal/workers",
    )


@router.post("/{worker_id}/drain", dependencies=[needs("admin")])
def drain(worker_id: str, resources: ResourcesDep, actor: ActorDep) -> Response:
    """Ask a worker to claim nothing more; an operator's."""
    workers.drain(resources, actor, worker_id)
    return RedirectResponse("/portal/workers", 303)


@router.post("/{worker_id}/undrain", dependencies=[needs("admin")])
def undrain(worker_id: str, resources: ResourcesDep, actor: ActorDep) -> Response:
    """Let a worker claim jobs again; an operator's."""
    workers.undrain(resources, actor, worker_id)
    return RedirectResponse("/portal/workers", 303)
