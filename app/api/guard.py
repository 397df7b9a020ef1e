"""Middleware: a request id on everything, a bound on what comes in, and no trace that gets out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from inspect import iscoroutinefunction

import structlog
from fastapi.routing import APIRoute
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import problem_response
from app.bodies.strict_json import parse
from app.errors import AppError, BodyTooLarge, HeadersTooLarge, MalformedRequest, SlowBody, UnsupportedBody
from app.platform import tracing
from app.platform.actor import Actor
from app.platform.fairness import FairSemaphore, KeyedLimiter, until_start
from app.platform.ids import new_id

MAX_BODY_BYTES = 256 * 1024
MAX_HOOK_BYTES = 2**20
_HOOK = re.compile(r"/v1/hooks/[^/]+")
"""Deliveries: read like any body, verified over their bytes, and parsed by the endpoint."""
_RAW = re.compile(r"/v1/uploads/[^/]+/files/[^/]+(/[^/]+)?/parts/[^/]+")  # a template lies in a folder
WORKED_ON_AT_ONCE = 16
"""Requests with a body, of all projects: with 4 a process served two thirds as many, and answered none sooner."""
_TURN_SECONDS = 0.02
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MAX_QUERY_BYTES, MAX_PARAMETERS = 16 * 1024, 100
MAX_HEADER_BYTES, MAX_HEADERS = 32 * 1024, 100
_COOKIES = b"espalier_"
"""Prefix of the names of our cookies."""
RECEIVE_SECONDS = 20.0
"""Time limit for the arrival of a JSON body."""

log = structlog.get_logger(__name__)


class InternalError(AppError):
    """Something went wrong in the service; the request id finds it in the log."""

    code, status = "internal", 500


class RequestContext:
    """Outermost: gives every request an id, binds it to the log, and turns surprises into a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        parent = tracing.from_headers(Headers(scope=scope))
        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            tracing.span(f"{scope['method']} {scope['path']}", parent, request_id=request_id),
        ):
            try:
                await self.app(scope, receive, send_with_id)
            except ClientDisconnect:  # while it sent a body that a route reads itself
                log.info("the client left", method=scope["method"], path=scope["path"])
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if started:  # half an answer cannot be taken back: let the server cut the connection
                    raise
                await problem_response(scope, InternalError())(scope, receive, send_with_id)


class BodyGuard:
    """Reads the body once, within bounds, as strict JSON; the document is in `request.state.json`.

    Nothing is read on a path that takes no body: what is sent there counts as nothing.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute], shares: KeyedLimiter) -> None:
        self.app = app
        ours = [route for route in routes if isinstance(route, APIRoute)]
        self._turns, self._shares = FairSemaphore(WORKED_ON_AT_ONCE, seconds=_TURN_SECONDS), shares
        self._taking = _matches(route for route in ours if route.body_field is not None)
        self._waiting = _matches(route for route in ours if iscoroutinefunction(route.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request whose body is well-formed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hook = _is_hook(scope)
        taking = hook or self._takes_a_body(scope)
        scope["state"]["json"] = None
        try:
            _check_head(scope)
            if _reads_itself(scope):
                await self.app(scope, receive, send)  # it reads the bytes as they come, and counts them
                return
            async with asyncio.timeout(RECEIVE_SECONDS):
                body = await _read(Headers(scope=scope), receive, raw=hook) if taking else b""
        except (AppError, TimeoutError) as error:
            refusal = SlowBody() if isinstance(error, TimeoutError) else error
            await problem_response(scope, refusal)(scope, receive, send)
            return
        if body is None:  # the client has left
            return
        actor: Actor | None = scope["state"].get("actor")
        if actor is None or self._waits(scope):
            await self._work(scope, body, receive, send, taking=taking)
            return
        async with self._shares.acquire(actor.project_id) as end_share:
            await self._work(scope, body, receive, until_start(send, end_share), taking=taking)

    async def _work(self, scope: Scope, body: bytes, receive: Receive, send: Send, *, taking: bool) -> None:
        """Parse a body when it is its turn, and hand the request on."""
        if not taking:
            await self._serve(scope, body, receive, send)
            return
        async with self._turns.acquire(_lane(scope)) as end_turn:
            scope["state"]["end_turn"] = end_turn
            try:
                scope["state"]["json"] = parse(body) if body and not _is_hook(scope) else None
            except AppError as refusal:
                await problem_response(scope, refusal)(scope, receive, send)
                return
            await self._serve(scope, body, receive, send)

    async def _serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Hand a request on with the body that was read."""
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _takes_a_body(self, scope: Scope) -> bool:
        return any(method == scope["method"] and path.match(scope["path"]) for method, path in self._taking)

    def _waits(self, scope: Scope) -> bool:
        """Tell whether a request holds no thread while it is worked on."""
        return any(method == scope["method"] and path.match(scope["path"]) for method, path in self._waiting)


def _matches(routes: Iterable[APIRoute]) -> list[tuple[str, re.Pattern[str]]]:
    return [(method, route.path_regex) for route in routes for method in route.methods or ()]


def _is_hook(scope: Scope) -> bool:
    return scope["method"] == "POST" and _HOOK.fullmatch(scope["path"]) is not None


def _lane(scope: Scope) -> str:
    """Return the lane of a request: its project's; deliveries, which bring no key, share one.

    With a lane of its own for each hook, callers could open lanes without end.
    """
    actor: Actor | None = scope["state"].get("actor")
    return actor.project_id if actor else ""


def _reads_itself(scope: Scope) -> bool:
    """Tell whether a body is read behind this guard: parts of uploads, and forms of the portal."""
    path = scope["path"]
    return path.startswith("/portal/") or (scope["method"] == "PUT" and _RAW.fullmatch(path) is not None)


def _check_head(scope: Scope) -> None:
    headers, query = scope["headers"], scope["query_string"]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise HeadersTooLarge
    if len(query) > MAX_QUERY_BYTES or query.count(b"&") >= MAX_PARAMETERS:
        raise MalformedRequest(f"A query has {MAX_PARAMETERS} parameters and {MAX_QUERY_BYTES} bytes at most.")
    # Postgres holds no NUL in text: it would be an error of the database.
    if "\x00" in scope["path"] or b"%00" in query:
        raise MalformedRequest("The address holds a NUL character.")
    scope["headers"] = [(name, _ours(value) if name == b"cookie" else value) for name, value in headers]


def _ours(cookies: bytes) -> bytes:
    """Keep our own cookies, none of which is quoted: the parser behind us reads quoted ones in quadratic time."""
    crumbs = (cookie.strip() for cookie in cookies.split(b";"))
    return b"; ".join(cookie for cookie in crumbs if cookie.startswith(_COOKIES) and b"\\" not in cookie)


async def _read(headers: Headers, receive: Receive, *, raw: bool) -> bytes | None:
    max_bytes = MAX_HOOK_BYTES if raw else MAX_BODY_BYTES
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise UnsupportedBody
    announced = headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 12 or int(announced) > max_bytes):
        raise BodyTooLarge
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise BodyTooLarge
        if not message.get("more_body", False):
            break
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Any other type could be posted to loopback by a web page without asking the browser first.
    if body and media_type != "application/json" and not raw:
        raise UnsupportedBody
    return bytes(body)
