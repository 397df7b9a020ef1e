"""Signing in with an API key, and out."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from app.errors import Unauthenticated
from app.portal.deps import FormDep, ResourcesDep
from app.portal.guard import cookie_header
from app.portal.rendering import render
from app.services.keys import Doorman
from app.services.sessions import Sessions

router = APIRouter()

FRONT = "/portal/jobs"
_OURS = re.compile(r"/portal/[A-Za-z0-9][\x21-\x5b\x5d-\x7e]{0,2000}")
"""An address of a page of ours, without a backslash."""
Next = Annotated[str, Query(alias="next", max_length=3000)]


@router.get("/sign-in")
def sign_in_page(request: Request, wanted: Next = FRONT) -> Response:
    """Ask for a key."""
    if request.state.actor is not None:
        return RedirectResponse(_ours(wanted), 303)
    return render(request, "sign_in.html", wanted=_ours(wanted), refusal=None)


@router.post("/sign-in")
def sign_in(request: Request, form: FormDep, resources: ResourcesDep) -> Response:
    """Take a key, and remember the browser."""
    wanted = _ours(form.get("next"))
    try:
        actor = Doorman(resources.database, resources.settings).verify(form.get("key").strip())
    except Unauthenticated:
        refusal = "This key is not known here, revoked or expired."
        return render(request, "sign_in.html", status=401, wanted=wanted, refusal=refusal)
    sessions: Sessions = request.app.state.sessions
    seconds = int(resources.settings.portal_session_hours * 3600)
    answer = RedirectResponse(wanted, 303)
    answer.headers["Set-Cookie"] = cookie_header(resources.settings, sessions.open(actor), seconds=seconds)
    return answer


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
