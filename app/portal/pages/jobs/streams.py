"""What happens, told to an open page: which job, and what kind of event; the page asks for what it shows anew."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from app.db.job import Event
from app.db.lifecycle import TERMINAL
from app.dependencies import FeedDep, ProjectDep, ResourcesDep
from app.errors import InvalidCursor
from app.platform.actor import LOCAL
from app.portal.deps import needs
from app.services.events import marks
from app.services.events.feed import Pass
from app.services.jobs import reads
from app.services.tenancy.sessions import Sessions

router = APIRouter(dependencies=[needs("jobs:read")])

LastEventId = Annotated[str, Header(alias="Last-Event-ID", max_length=200)]
After = Annotated[str, Query(max_length=200)]


@router.get("/stream")
async def stream_all(
    request: Request, project: ProjectDep, feed: FeedDep, after: After = "", last_event_id: LastEventId = ""
) -> Response:
    """Tell of all jobs, from a mark on or from now on."""
    mark = last_event_id or after
    position = marks.position_of(mark) if mark else None
    return _stream(feed.of_project(project, position, opened_with=_pass(request)), marks.of_event)


@router.get("/jobs/{job_id}/stream")
async def stream_job(
    request: Request,
    job_id: str,
    project: ProjectDep,
    resources: ResourcesDep,
    feed: FeedDep,
    after: After = "0",
    last_event_id: LastEventId = "",
) -> Response:
    """Tell of one job until it ends."""
    mark = last_event_id or after
    if not (mark.isascii() and mark.isdecimal()) or len(mark) > 18:
        raise InvalidCursor("The id of a job's stream is the seq of an event.")
    head = await to_thread.run_sync(reads.head, resources.database, project, job_id)
    if head.state in TERMINAL and int(mark) >= head.seq:
        return Response(status_code=204)
    events = feed.of_job(project, job_id, after=int(mark), opened_with=_pass(request))
    return _stream(events, lambda event: str(event.seq))


def _pass(request: Request) -> Pass | None:
    """The sign-in that ends the stream when it ends; whoever needs none in an embedded installation has none."""
    sessions: Sessions = request.app.state.sessions
    if request.state.actor == replace(LOCAL, request_id=request.state.actor.request_id):
        return None
    return Pass("session", sessions.digest(request.state.token))


def _stream(events: AsyncIterator[Event | None], id_of: Callable[[Event], str]) -> Response:
    async def body() -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        async for event in events:
            if event is None:
                yield ": beat\n\n"
            else:
                data = json.dumps({"type": event.type, "job_id": event.job_id})
                yield f"id: {id_of(event)}\ndata: {data}\n\n"

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)
