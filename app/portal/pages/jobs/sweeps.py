"""Sweeps, and the front of what came out of each."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from app.db.lifecycle import TERMINAL
from app.dependencies import ProjectDep, ResourcesDep
from app.portal.deps import needs
from app.portal.drawings.scales import Writing
from app.portal.drawings.scales import percent as whole_percent
from app.portal.drawings.scatter import Mark, scatter
from app.portal.navigation import MenuEntry
from app.portal.rendering import duration, percent, render, size
from app.services.events import event_cursor
from app.services.sweeps import sweeps
from app.services.sweeps.sweeps import ParetoPoint, SweepReading

router = APIRouter(prefix="/sweeps", dependencies=[needs("jobs:read")])
NAVIGATION = MenuEntry("Sweeps", "/portal/sweeps", 40)

PAGE = 30
Measure = Literal["sparsity", "bytes", "packed_bytes", "seconds"]
AXES: Final[dict[Measure, tuple[str, Writing]]] = {
    "sparsity": ("Sparsity", lambda value: percent(value, 1)),
    "bytes": ("Bytes of the files", size),
    "packed_bytes": ("Bytes, packed", size),
    "seconds": ("Seconds of work", duration),
}


@router.get("")
def sweeps_page(
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    before: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """List sweeps."""
    rows = sweeps.page(resources.database, project, before=before, limit=PAGE + 1)
    older = f"/portal/sweeps?before={rows[PAGE - 1].id}" if len(rows) > PAGE else None
    shown = [sweeps.listed(resources.database, row) for row in rows[:PAGE]]
    return render(request, "sweeps.html", rows=shown, older=older)


@router.get("/{sweep_id}")
def sweep_page(
    request: Request,
    sweep_id: str,
    resources: ResourcesDep,
    project: ProjectDep,
    x: Measure = "sparsity",
    metric: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Show a sweep; a script of ours gets its body alone."""
    mark = event_cursor.of_now(resources.database)
    reading = sweeps.get(resources.database, project, sweep_id)
    chosen, points = sweeps.pareto(reading, x, metric or None)
    by_job = {point.job_id: point for point in points}
    _, by_sparsity = sweeps.pareto(reading, "sparsity", metric or None)
    dense = next((point.perplexity for point in by_sparsity if point.job_id is None), None)
    template = "sweep_body.html" if request.headers.get("hx-request") else "sweep.html"
    return render(
        request,
        template,
        sweep=reading.sweep,
        reading=reading,
        x=x,
        axes=AXES,
        metric=chosen,
        metrics=_metrics(reading),
        by_job=by_job,
        dense=dense,
        over=reading.state in TERMINAL,
        mark=mark,
        drawing=_draw(points, x, chosen),
    )


def _metrics(reading: SweepReading) -> list[str]:
    reports = [job.report for job in reading.jobs.values() if job.report]
    return sorted({name for report in reports for name in report["compressed"].get("perplexity") or {}})


def _draw(points: list[ParetoPoint], x: Measure, metric: str | None) -> Markup | None:
    title, write = AXES[x]
    results = [
        Mark(
            words(point.values) if point.job_id else "dense",
            point.x,
            point.perplexity,
            point.front,
            f"/portal/jobs/{point.job_id}" if point.job_id else None,
        )
        for point in points
    ]
    write = whole_percent if x == "sparsity" else write
    about = f"{title} against perplexity, {metric}"
    return scatter("pareto", results, x_title=title, x_write=write, y_title="perplexity", title=about)


def words(values: dict[str, object]) -> str:
    """Write the values of a point: the last step of each pointer, and the value."""
    return ", ".join(f"{pointer.rsplit('/', 1)[-1]} {value}" for pointer, value in values.items())


@router.post("/{sweep_id}/cancel", dependencies=[needs("jobs:cancel")])
def cancel(sweep_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """End every job of a sweep that is not over."""
    sweeps.cancel(resources, project, sweep_id)
    return RedirectResponse(f"/portal/sweeps/{sweep_id}", 303)
