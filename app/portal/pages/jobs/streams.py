"""Server-Sent Events for open pages: which job, and what kind of event; the page fetches the fragment that changed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.db.job import Event
from app.db.lifecycle import TERMINAL
from app.dependencies import EventStreamsDep, ProjectDep, ResourcesDep
from app.platform.actor import LOCAL
from app.portal.deps import needs
from app.services.events import event_cursor
from app.services.events.event_streams import Pass
from app.services.jobs import reads
from app.services.tenancy.sessions import Sessions
from app.sse import LastEventId, event_stream, frame, seq_of

router = APIRouter(dependencies=[needs("jobs:read")])

After = Annotated[str, Query(max_length=200)]


@router.get("/stream")
async def stream_all(
    request: Request,
    project: ProjectDep,
    streams: EventStreamsDep,
    after: After = "",
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the events of all jobs, from a cursor on or from now on."""
    cursor = last_event_id or after
    position = event_cursor.parse(cursor) if cursor else None
    events = streams.of_project(project, position, opened_with=_pass(request))
    return event_stream(events, lambda event: frame(event_cursor.of_event(event), _notice(event)))


@router.get("/jobs/{job_id}/stream")
async def stream_job(
    request: Request,
    job_id: str,
    project: ProjectDep,
    resources: ResourcesDep,
    streams: EventStreamsDep,
    after: After = "0",
    last_event_id: LastEventId = None,
) -> Response:
    """Stream the events of one job until it ends."""
    seq = seq_of(last_event_id or after)
    head = await to_thread.run_sync(reads.head, resources.database, project, job_id)
    if head.state in TERMINAL and seq >= head.seq:
        return Response(status_code=204)
    events = streams.of_job(project, job_id, after=seq, opened_with=_pass(request))
    return event_stream(events, lambda event: frame(str(event.seq), _notice(event)))


def _pass(request: Request) -> Pass | None:
    """Return the session whose end ends the stream; None in an embedded installation without sign-in."""
    sessions: Sessions = request.app.state.sessions
    if request.state.actor == replace(LOCAL, request_id=request.state.actor.request_id):
        return None
    return Pass("session", sessions.digest(request.state.token))


def _notice(event: Event) -> bytes:
    return json.dumps({"type": event.type, "job_id": event.job_id}).encode()
