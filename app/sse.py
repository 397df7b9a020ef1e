"""Server-Sent Events, for API and portal: frames, the check of a resume position, and the response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final, TypeVar

from fastapi import Header
from starlette.responses import StreamingResponse

from app.errors import InvalidCursor

T = TypeVar("T")

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", max_length=200, description="Go on after this id.")]
RETRY: Final = b"retry: 2000\n\n"
"""How long a client waits before it connects again, in milliseconds; the first frame of every stream."""
KEEP_ALIVE: Final = b": beat\n\n"
"""A comment, sent while nothing happens so that proxies keep the connection open."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_MAX_SEQ_DIGITS: Final = 18
"""Of a number that a 64-bit column holds, whatever its digits."""


def frame(id_: str, data: bytes) -> bytes:
    """Return the frame of an event whose data is one line."""
    return b"id: %s\ndata: %s\n\n" % (id_.encode(), data)


def seq_of(last_event_id: str) -> int:
    """Return the seq that the id of a job's stream stands for; raises InvalidCursor."""
    if not (last_event_id.isascii() and last_event_id.isdecimal()) or len(last_event_id) > _MAX_SEQ_DIGITS:
        raise InvalidCursor("Last-Event-ID is the seq of an event.")
    return int(last_event_id)


def event_stream(items: AsyncIterator[T | None], frame_of: Callable[[T], bytes]) -> StreamingResponse:
    """Stream a frame for each item, and a keep-alive for each None."""

    async def body() -> AsyncIterator[bytes]:
        yield RETRY
        async for item in items:
            yield KEEP_ALIVE if item is None else frame_of(item)

    return StreamingResponse(body(), media_type="text/event-stream", headers=_HEADERS)
