"""Middleware of the portal: sessions, CSRF tokens, and the content security policy."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import quote

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import AppError, Forbidden, Unauthenticated
from app.platform.actor import LOCAL, Actor, acting
from app.platform.fairness import until_start
from app.platform.loopback import is_of_another_site, require_loopback
from app.portal.forms import read_form
from app.portal.problems import internal_error, problem_page
from app.services.tenancy.keys import ApiKeyAuthenticator
from app.services.tenancy.sessions import Sessions, new_token
from app.settings import Settings

COOKIE: Final = "espalier_session"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_SAFE = frozenset({"GET", "HEAD"})
STATIC: Final = "/portal/static/"
OPEN: Final = "/portal/sign-in"
"""Paths that are open without a session, with all below them."""

log = structlog.get_logger(__name__)


class PortalGuard:
    """Authenticates the session, refuses forms of other sites, and turns unexpected errors into a page."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self.app = app
        self._settings = settings
        self._sessions: Sessions | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, cookie = False, ""

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                ours = any(value.startswith(f"{COOKIE}=") for value in headers.getlist("set-cookie"))
                if cookie and not ours:  # a response of the sign-in sets a new one itself
                    headers.append("Set-Cookie", cookie_header(self._settings, cookie))
            await send(message)

        request = Request(scope, receive)
        try:
            if scope["path"].startswith(STATIC):
                await self.app(scope, receive, guarded)
                return
            token = _token(request)
            if not token:
                token = cookie = new_token()
            refusal = await self._refusal(request, token)
            if refusal is not None:
                await refusal(scope, receive, guarded)
                return
            await self._serve(request, guarded)
        except AppError as error:
            await problem_page(request, error)(scope, receive, guarded)
        except Exception:
            log.exception("page failed", method=scope["method"], path=scope["path"])
            if started:
                raise
            await internal_error(request)(scope, receive, guarded)

    async def _serve(self, request: Request, send: Send) -> None:
        """Pass a request on, within its project's share of threads."""
        actor: Actor | None = request.state.actor
        if actor is None:
            await self.app(request.scope, request.receive, send)
            return
        async with request.app.state.shares.acquire(actor.project_id) as end_share:
            with _as(actor):
                await self.app(request.scope, request.receive, until_start(send, end_share))

    async def _refusal(self, request: Request, token: str) -> Response | None:
        """Bind session, actor and form to the request; return the answer to a request without a session."""
        sessions = self._of(request)
        request.state.csrf, request.state.token = sessions.csrf(token), token
        request.state.actor = actor = await self._actor(request, token)
        path = request.url.path
        if request.method not in _SAFE:
            await self._check_form(request)
        if actor is None and not path.startswith(OPEN):
            return self._to_sign_in(request)
        return None

    async def _actor(self, request: Request, token: str) -> Actor | None:
        sessions = self._of(request)
        actor = sessions.known(token) or await run_in_threadpool(sessions.find, token)
        if actor is None and self._settings.mode == "embedded":
            try:
                require_loopback(request.headers, self._settings.host)
                actor = LOCAL
            except Unauthenticated:
                return None
        if actor is None:
            return None
        id_ = getattr(request.state, "request_id", None)
        return Actor(actor.type, actor.id, actor.project_id, actor.scopes, actor.limits, id_)

    async def _check_form(self, request: Request) -> None:
        if is_of_another_site(request.headers):
            raise Forbidden("This form was sent from the page of another site.")
        form = await read_form(Headers(scope=request.scope), request.receive)
        given = request.headers.get("x-csrf-token") or form.get("csrf")
        if not hmac.compare_digest(given.encode(), request.state.csrf.encode()):
            raise Forbidden("The form has expired: open the page again, and send it again.")
        request.state.form = form

    def _to_sign_in(self, request: Request) -> Response:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        place = f"/portal/sign-in?next={quote(wanted, safe='')}" if request.method in _SAFE else "/portal/sign-in"
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"HX-Redirect": "/portal/sign-in"})
        return RedirectResponse(place, 303)

    def _of(self, request: Request) -> Sessions:
        if self._sessions is None:
            self._sessions = Sessions(request.app.state.resources.database, self._settings)
            request.app.state.sessions = self._sessions
            request.app.state.authenticator = ApiKeyAuthenticator(request.app.state.resources.database, self._settings)
        return self._sessions


@contextmanager
def _as(actor: Actor) -> Iterator[None]:
    named = {"project_id": actor.project_id, "actor_id": actor.id}
    with acting(actor), structlog.contextvars.bound_contextvars(**named):
        yield


def cookie_header(
    settings: Settings, token: str, *, seconds: int | None = None, name: str = COOKIE, path: str = "/portal"
) -> str:
    """Return the Set-Cookie header of a token: kept until the browser closes, or for so long."""
    cookie: SimpleCookie = SimpleCookie()
    cookie[name] = token
    cookie[name]["path"] = path
    cookie[name]["httponly"] = True
    cookie[name]["samesite"] = "Lax"
    if settings.mode == "production":
        cookie[name]["secure"] = True
    if seconds is not None:
        cookie[name]["max-age"] = seconds
    return cookie[name].OutputString()


def _token(request: Request) -> str:
    try:
        token = request.cookies.get(COOKIE, "")
    except CookieError:
        return ""
    return token if len(token) <= 100 and token.isascii() else ""
