"""Signing in with an API key or at an identity provider, and out."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.dependencies import ResourcesDep
from app.errors import NotFound, Unauthenticated
from app.platform.actor import Actor
from app.portal.deps import FormDep
from app.portal.guard import cookie_header
from app.portal.rendering import base_url, render
from app.services.tenancy import oidc
from app.services.tenancy.oidc import (
    ATTEMPT_SECONDS,
    NoProject,
    Provider,
    ProviderSilent,
    SignIn,
    SignInFailed,
)
from app.services.tenancy.sessions import Sessions
from app.settings import Settings

router = APIRouter()

FRONT = "/portal/jobs"
_OURS = re.compile(r"/portal/[A-Za-z0-9][\x21-\x5b\x5d-\x7e]{0,2000}")
"""An address of a page of ours, without a backslash."""
_WORD = re.compile(r"[^A-Za-z]+")
ATTEMPT: Final = "espalier_oidc"
"""The cookie of a sign-in that is on its way through the provider."""
RETURN: Final = "/portal/sign-in/oidc/return"
Told = Annotated[str, Query(max_length=4096)]
Next = Annotated[str, Query(alias="next", max_length=3000)]


@router.get("/sign-in")
def sign_in_page(request: Request, wanted: Next = FRONT) -> Response:
    """Show the form of the sign-in."""
    if request.state.actor is not None:
        return RedirectResponse(_ours(wanted), 303)
    return _ask(request, _ours(wanted))


def _ask(request: Request, wanted: str, *, status: int = 200, wrong_key: str = "", failed: str = "") -> Response:
    provider: Provider | None = request.app.state.identity_provider
    title = request.app.state.portal_settings.oidc_title if provider else None
    return render(
        request, "sign_in.html", status=status, wanted=wanted, wrong_key=wrong_key, failed=failed, provider=title
    )


@router.post("/sign-in")
def sign_in(request: Request, form: FormDep) -> Response:
    """Take a key, and remember the browser."""
    wanted, authenticator = _ours(form.get("next")), request.app.state.authenticator
    try:
        actor: Actor = authenticator.verify(form.get("key").strip())
    except Unauthenticated:
        return _ask(request, wanted, status=401, wrong_key="This key is not known here, revoked or expired.")
    return _let_in(request, actor, wanted)


def _let_in(request: Request, actor: Actor, wanted: str) -> Response:
    sessions: Sessions = request.app.state.sessions
    settings: Settings = request.app.state.portal_settings
    answer = RedirectResponse(wanted, 303)
    seconds = int(settings.portal_session_hours * 3600)
    answer.headers["Set-Cookie"] = cookie_header(settings, sessions.open(actor), seconds=seconds)
    return answer


@router.get("/sign-in/oidc")
def go_to_provider(request: Request, resources: ResourcesDep, wanted: Next = FRONT) -> Response:
    """Send a browser to the identity provider, with a cookie that its answer must match."""
    attempt = SignIn.begin(_ours(wanted))
    try:
        answer = RedirectResponse(_provider(request).address(attempt, _return_url(request)), 303)
    except ProviderSilent as error:
        return _ask(request, attempt.wanted, status=error.status, failed=error.detail)
    answer.headers["Set-Cookie"] = _attempt_cookie(resources.settings, attempt.sealed(resources.settings))
    return answer


@router.get("/sign-in/oidc/return")
def come_back(
    request: Request, resources: ResourcesDep, code: Told = "", state: Told = "", error: Told = "", iss: Told = ""
) -> Response:
    """Take the provider's answer, and remember the browser."""
    provider, settings, wanted, who = _provider(request), resources.settings, FRONT, None
    try:
        attempt = SignIn.opened(settings, request.cookies.get(ATTEMPT, ""), state)
        wanted = attempt.wanted
        if error or not code or iss not in {"", settings.oidc_issuer}:
            raise SignInFailed(f"The provider said: {_WORD.sub(' ', error)[:60]}." if error else None)
        claims = provider.claims(attempt, code, _return_url(request))
        who = oidc.name_of(settings, claims)
        answer = _let_in(request, oidc.actor(resources.database, settings, provider.grants, claims), wanted)
    except (SignInFailed, NoProject, ProviderSilent) as refusal:
        if not isinstance(refusal, ProviderSilent):
            sessions: Sessions = request.app.state.sessions
            sessions.note_refusal(who, refusal.code)
        answer = _ask(request, wanted, status=refusal.status, failed=refusal.detail)
    answer.headers.append("Set-Cookie", _attempt_cookie(settings, ""))
    return answer


def _provider(request: Request) -> Provider:
    provider: Provider | None = request.app.state.identity_provider
    if provider is None:
        raise NotFound("There is no such page.")
    return provider


def _return_url(request: Request) -> str:
    return f"{base_url(request)}{RETURN}"


def _attempt_cookie(settings: Settings, value: str) -> str:
    return cookie_header(
        settings, value, seconds=ATTEMPT_SECONDS if value else 0, name=ATTEMPT, path="/portal/sign-in/oidc"
    )


@router.post("/sign-out")
def sign_out(request: Request, resources: ResourcesDep) -> Response:
    """Forget the browser."""
    sessions: Sessions = request.app.state.sessions
    sessions.close(request.state.token)
    answer = RedirectResponse("/portal/sign-in", 303)
    answer.headers["Set-Cookie"] = cookie_header(resources.settings, "", seconds=0)
    return answer


def _ours(address: str) -> str:
    return address if _OURS.fullmatch(address) else FRONT
