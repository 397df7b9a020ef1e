"""Liveness, readiness, and numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import structlog
from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from app.api.deps import ResourcesDep
from app.api.views import View
from app.db.migrate import is_current
from app.db.queries.jobs import count_by_state
from app.errors import NotReady, Problem
from app.services.resources import Resources
from app.specs.lifecycle import STATES

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
def metrics(resources: ResourcesDep) -> str:
    """Count jobs by state, in Prometheus's text format."""
    with resources.database.reading() as session:
        counts = count_by_state(session)
    lines = [f'espalier_jobs{{state="{state}"}} {counts.get(state, 0)}' for state in STATES]
    return "\n".join(["# HELP espalier_jobs Jobs by state.", "# TYPE espalier_jobs gauge", *lines, ""])
