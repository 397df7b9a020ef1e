"""Middleware: a request id on everything, a bound on what comes in, and no trace that gets out."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing
from app.api.problems import problem_response
from app.errors import AppError, BodyTooLarge, MalformedRequest, UnsupportedBody
from app.ids import new_id

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 32
"""Of arrays and objects; a job needs 8."""
MAX_HOOK_BYTES = 2**20
_HOOK = re.compile(r"/v1/hooks/[^/]+")
"""Deliveries: read like any body, verified over their bytes, and parsed by the endpoint."""
_RAW = re.compile(r"/v1/uploads/[^/]+/files/[^/]+(/[^/]+)?/parts/[^/]+")  # a template lies in a folder
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)

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
            except Exception:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if started:  # half an answer cannot be taken back: let the server cut the connection
                    raise
                await problem_response(scope, InternalError())(scope, receive, send_with_id)


class BodyGuard:
    """Reads the body once, within bounds, as strict JSON; the document is in `request.state.json`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request whose body is well-formed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            _check_address(scope)
            if _reads_itself(scope):
                await self.app(scope, receive, send)  # it reads the bytes as they come, and counts them
                return
            hook = _HOOK.fullmatch(scope["path"]) is not None
            body = await _read(Headers(scope=scope), receive, raw=hook)
            if body is None:  # the client has left
                return
            scope["state"]["json"] = parse(body) if body and not hook else None
        except AppError as error:
            await problem_response(scope, error)(scope, receive, send)
            return
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


def _reads_itself(scope: Scope) -> bool:
    """Tell whether a body is read behind this guard: parts of uploads, and forms of the portal."""
    path = scope["path"]
    return path.startswith("/portal/") or (scope["method"] == "PUT" and _RAW.fullmatch(path) is not None)


def _check_address(scope: Scope) -> None:
    # Postgres holds no NUL in text: it would be an error of the database.
    if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
        raise MalformedRequest("The address holds a NUL character.")


async def _read(headers: Headers, receive: Receive, *, raw: bool) -> bytes | None:
    most = MAX_HOOK_BYTES if raw else MAX_BODY_BYTES
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise UnsupportedBody
    announced = headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 12 or int(announced) > most):
        raise BodyTooLarge
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise BodyTooLarge
        if not message.get("more_body", False):
            break
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Any other type could be posted to loopback by a web page without asking the browser first.
    if body and media_type != "application/json" and not raw:
        raise UnsupportedBody
    return bytes(body)


def parse(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """Read strict JSON: UTF-8, no NaN, no member twice, no NUL, no lone surrogate, nested 32 deep at most."""
    _check_depth(body)
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
        text = json.dumps(document, ensure_ascii=False)
        text.encode()
    except MalformedRequest:
        raise
    except (ValueError, RecursionError):
        raise MalformedRequest("The body is not JSON in UTF-8.") from None
    if re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise MalformedRequest("The body holds a NUL character.")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise MalformedRequest("An object of the body has a member twice.")
    return document


def _refuse_constant(_name: str) -> NoReturn:
    raise MalformedRequest("NaN and Infinity are not JSON.")


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedRequest(f"The body is nested deeper than {MAX_DEPTH}.")
        elif byte in b"]}":
            depth -= 1
