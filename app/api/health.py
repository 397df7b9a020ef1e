"""Liveness, readiness, and numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import structlog
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import PlainTextResponse

from app.api.views import View
from app.db.migrate import is_current
from app.dependencies import ResourcesDep
from app.errors import NotReady, Problem
from app.services.resources import Resources

router = APIRouter(tags=["health"])
log = structlog.get_logger(__name__)


class HealthView(View):
    """The process answers."""

    status: Literal["ok"]


class ReadyView(View):
    """The service can take work."""

    status: Literal["ready"]
    checks: dict[str, Literal["ok"]]


@router.get("/healthz")
def healthz() -> HealthView:
    """Tell that the process lives."""
    return HealthView(status="ok")


@router.get("/readyz")
def readyz(resources: ResourcesDep) -> ReadyView:
    """Tell that database, broker and store answer; 503 names those that do not."""
    checks: dict[str, Callable[[], None]] = {
        "database": lambda: _check_database(resources),
        "broker": resources.doorbell.check,
        "store": resources.store.check,
    }
    problems = [problem for name, check in checks.items() if (problem := _run(name, check))]
    if problems:
        raise NotReady(items=problems, headers={"Retry-After": "2"})
    return ReadyView(status="ready", checks=dict.fromkeys(checks, "ok"))


def _run(name: str, check: Callable[[], None]) -> Problem | None:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever keeps a port from working makes the service unready
        log.warning("not ready", part=name, error=type(error).__name__)
        return Problem("", name, f"The {name} is not usable: {type(error).__name__}.")
    return None


def _check_database(resources: Resources) -> None:
    if not is_current(resources.database):
        raise ValueError("migrations are missing")


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> PlainTextResponse:
    """Count and time for Prometheus, in its text format."""
    return PlainTextResponse(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
