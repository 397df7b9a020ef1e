"""The jobs of a project: live rows, filters in the address, several cancelled or retried at once."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.bodies.control import Retry
from app.db.lifecycle import STATES
from app.dependencies import ProjectDep, ResourcesDep
from app.errors import AppError
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.portal.job_filters import JobFilters
from app.portal.navigation import MenuEntry
from app.portal.rendering import render
from app.services.events import event_cursor
from app.services.jobs import control, reads
from app.services.jobs.reads import JobReading
from espalier.recipe.steps.prune import STEPS
from espalier.recipe.steps.structure import STRUCTURE_STEPS

router = APIRouter(dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Jobs", "/portal/jobs", 10)

PAGE = 50
BULK = 200
"""Jobs that one form may name."""


@router.get("/jobs")
def jobs_page(request: Request, resources: ResourcesDep, project: ProjectDep) -> Response:
    """List jobs; a script of ours gets the rows alone."""
    mark = event_cursor.of_now(resources.database)  # first: events that come while the rows are read are sent again
    filters = JobFilters.of(request.query_params)
    rows = reads.jobs(resources.database, project, filters.filters(), before=filters.cursor, limit=PAGE + 1)
    shown = rows[:PAGE]
    older = filters.url(cursor=shown[-1].job.id) if len(rows) > PAGE else None
    template = "jobs_rows.html" if request.headers.get("hx-request") else "jobs.html"
    return render(
        request,
        template,
        rows=shown,
        filters=filters,
        older=older,
        mark=mark,
        remaining=remaining_seconds,
        states=STATES,
        methods=[*STEPS, *STRUCTURE_STEPS],
        here_url=filters.url(cursor=filters.cursor),
    )


@router.post("/several-jobs/cancel", dependencies=[needs("jobs:cancel")])
def cancel_several(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Cancel each selected job by itself, and show the outcome of each."""
    return _several(request, form, "cancelled", lambda job_id: control.cancel(resources, project, job_id))


@router.post("/several-jobs/retry", dependencies=[needs("jobs:write")])
def retry_several(request: Request, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Retry each selected job by itself, and show the outcome of each."""
    body = Retry.model_validate({})
    return _several(request, form, "queued again", lambda job_id: control.retry(resources, project, job_id, body))


def _several(request: Request, form: Form, done: str, act: Callable[[str], None]) -> Response:
    results: list[tuple[str, str | None]] = []
    for job_id in list(dict.fromkeys(form.all("job")))[:BULK]:
        try:
            act(job_id)
        except AppError as error:
            results.append((job_id, error.detail))
        else:
            results.append((job_id, None))
    return render(request, "jobs_bulk.html", results=results, done=done)


def remaining_seconds(reading: JobReading) -> float | None:
    """Estimate the remaining time of a running job from its progress; None while it is too early."""
    done = reading.job.progress
    if reading.job.state != "running" or not 0.03 < done < 1:
        return None
    return reading.durations["running"] * (1 - done) / done
