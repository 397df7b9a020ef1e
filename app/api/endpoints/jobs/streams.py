"""Server-Sent Events of one job, until it ends, and of all jobs of a project."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter
from fastapi import Query as FromQuery
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from app.api.deps import JobId
from app.api.paging import Query
from app.api.views import event_view
from app.db.job import Event
from app.db.lifecycle import TERMINAL
from app.dependencies import ActorDep, EventStreamsDep, ResourcesDep
from app.platform.actor import Actor
from app.services.events import event_cursor
from app.services.events.event_streams import Pass
from app.services.jobs import reads
from app.sse import LastEventId, event_stream, frame, seq_of

router = APIRouter(prefix="/v1", tags=["jobs"])

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`id`: the position to resume from; `data`: an event, as in the list.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


class SeqQuery(Query):
    """Resume position in the events of a job."""

    after: int = Field(0, ge=0, lt=2**63, description="Send events with a higher seq; Last-Event-ID wins over it.")


class PlaceQuery(Query):
    """Resume position in the events of all jobs."""

    after: str | None = Field(None, max_length=200, description="`id` of the last event seen; default: from now on.")


@router.get(
    "/jobs/{job_id}/events/stream",
    response_class=StreamingResponse,
    responses={**_STREAM, 204: {"description": "The job has ended and every event was sent: do not reconnect."}},
)
async def stream_events(
    job_id: JobId,
    query: Annotated[SeqQuery, FromQuery()],
    resources: ResourcesDep,
    actor: ActorDep,
    streams: EventStreamsDep,
    last_event_id: LastEventId = None,
) -> Response:
    """Send the events of a job as they happen; the stream ends after the one that ends the job, and with its key."""
    after = seq_of(last_event_id) if last_event_id else query.after
    head = await to_thread.run_sync(reads.head, resources.database, actor.project_id, job_id)
    if head.state in TERMINAL and after >= head.seq:
        return Response(status_code=204)
    events = streams.of_job(actor.project_id, job_id, after=after, opened_with=_pass(actor))
    return event_stream(events, lambda event: frame(str(event.seq), _rendered(event)))


@router.get("/events/stream", response_class=StreamingResponse, responses={**_STREAM})
async def stream_all_events(
    query: Annotated[PlaceQuery, FromQuery()],
    actor: ActorDep,
    streams: EventStreamsDep,
    last_event_id: LastEventId = None,
) -> Response:
    """Send the events of all jobs as they happen, from now or from an id on, until the key ends."""
    given = last_event_id or query.after
    position = event_cursor.parse(given) if given else None
    events = streams.of_project(actor.project_id, position, opened_with=_pass(actor))
    return event_stream(events, lambda event: frame(event_cursor.of_event(event), _rendered(event)))


def _pass(actor: Actor) -> Pass | None:
    """Return the key whose end ends the stream; None for calls without one to an embedded installation."""
    return Pass("key", actor.id) if actor.type == "api_key" else None


def _rendered(event: Event) -> bytes:
    """Render an event once, however many listen."""
    rendered: bytes | None = event.__dict__.get("rendered")
    if rendered is None:
        rendered = event_view(event).model_dump_json().encode()
        event.__dict__["rendered"] = rendered
    return rendered
