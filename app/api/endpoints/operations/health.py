"""Liveness, readiness, and numbers for Prometheus."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse

from app.api.views import View
from app.errors import NotReady
from app.services.readiness import Readiness

router = APIRouter(tags=["health"])


class HealthView(View):
    """The process answers."""

    status: Literal["ok"]


class ReadyView(View):
    """The service can take work."""

    status: Literal["ready"]
    checks: dict[str, Literal["ok"]]


@router.get("/healthz")
async def healthz() -> HealthView:
    """Tell that the process lives; nothing is waited for."""
    return HealthView(status="ok")


@router.get("/readyz")
async def readyz(request: Request) -> ReadyView:
    """Tell that database, broker and store answered a moment ago and disks have room; 503 names what fails."""
    readiness: Readiness = request.app.state.readiness
    if problems := await readiness.problems():
        raise NotReady(items=problems, headers={"Retry-After": "2"})
    return ReadyView(status="ready", checks=dict.fromkeys(readiness.parts, "ok"))


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Count and time for Prometheus, in its text format."""
    return PlainTextResponse(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
