"""The HTTP server's connections: what does not arrive in time, or is too much, is cut off before it is a request."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

GRACE_SECONDS: Final = 15.0
"""How long a request may take to arrive in any case."""
LEAST_BYTES_PER_SECOND: Final = 8 * 1024
"""Of a request that takes longer."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Request line and headers; what the application takes is less, and refused with a problem."""
LEAST_PIECE_BYTES, MOST_SMALL_PIECES = 16, 2048
"""A chunked body is not sent byte by byte."""
CHECK_SECONDS: Final = 1.0
_REFUSAL: Final = (
    "HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
    "content-length: {length}\r\n\r\n{body}"
)
_BODY: Final = (
    '{{"type":"urn:espalier:problem:{code}","title":"{title}","status":{status},"detail":"{detail}","instance":"",'
    '"code":"{code}","request_id":"","errors":[]}}'
)


class PromptProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which waits for a request as long as it comes at a reasonable rate, and no longer."""

    _began: float | None = None
    """When the request that is arriving began to; None between requests."""
    _arrived = 0
    _head_bytes = 0
    _in_head = True
    _pieces = 0
    _body_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _served: RequestResponseCycle | None = None
    """The request that is being answered: `cycle` is the last that came, and a client may send many at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and answer nothing more: what is written to a closed connection is an error."""
        if self._timer is not None:
            self._timer.cancel()
        self.pipeline.clear()
        if self._served is not None:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes, and refuse a head without an end."""
        self._arrived += len(data)
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "headers-too-large", "A request has at most 100 headers, of 32 KiB together.")
        if self._began is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()  # an empty line, which begins no request, has ended the wait for the next one

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._pieces, self._body_bytes = True, 0, 0, 0
        if self._began is None:
            self._expect()

    def on_headers_complete(self) -> None:
        """Count what follows as the body."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; one that comes in crumbs costs more than it is worth."""
        self._pieces += 1
        self._body_bytes += len(body)
        if self._pieces > MOST_SMALL_PIECES and self._body_bytes < self._pieces * LEAST_PIECE_BYTES:
            if not self.transport.is_closing():
                self._refuse(400, "malformed-request", "The body comes in chunks of a few bytes each.")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock: a whole request is here, and now its client waits."""
        self._began = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _expect(self) -> None:
        self._began, self._arrived = time.monotonic(), 0
        if self._timer is None:
            self._timer = self.loop.call_later(CHECK_SECONDS, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._began is None or self.transport.is_closing():
            return
        if self.flow.read_paused:  # it is we who do not read
            self._began, self._arrived = time.monotonic(), 0
        elif time.monotonic() - self._began > GRACE_SECONDS + self._arrived / LEAST_BYTES_PER_SECOND:
            self._refuse(408, "request-timeout", "The request did not arrive in time.")
            return
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check_deadline)

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer, unless an answer is on its way, and close."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            title = code.replace("-", " ").capitalize()
            body = _BODY.format(code=code, title=title, status=status, detail=detail)
            self.transport.write(_REFUSAL.format(status=status, title=title, length=len(body), body=body).encode())
        self.transport.close()
