"""Pages of one job: state, measurements, files, log and actions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from app.db.lifecycle import TERMINAL, JobState, allowed
from app.dependencies import ProjectDep, ResourcesDep
from app.portal import charts as job_charts
from app.portal import report_table
from app.portal.deps import needs
from app.portal.drawings.heat import MEASURES, errors_range, heat_map
from app.portal.drawings.tables import matrix_table
from app.portal.drawings.timeline import timeline
from app.portal.pages.jobs.jobs import remaining_seconds
from app.portal.rendering import base_url, render
from app.services.jobs import artifacts, job_timeline, reads
from app.services.jobs.reads import JobReading
from app.storage.base import attachment
from espalier.evaluate.protocol_line import protocol_line

router = APIRouter(dependencies=[needs("jobs:read")])

ROWS = 100
"""Events or lines of one page."""
MATRICES = 5000
"""Matrices of one map; a longer table would not be read."""
FILES = 500
TABS = (
    ("", "Overview"),
    ("layers", "Layers"),
    ("events", "Events"),
    ("log", "Log"),
    ("files", "Files"),
    ("spec", "Spec"),
)


def _page(
    request: Request,
    reading: JobReading,
    tab: str,
    **context: Any,  # noqa: ANN401 - what the template asks for
) -> Response:
    job = reading.job
    state: JobState = job.state  # type: ignore[assignment]
    return render(
        request,
        f"job_{tab or 'overview'}.html",
        job=job,
        reading=reading,
        tab=tab,
        tabs=TABS,
        actions=allowed(state),
        over=state in TERMINAL,
        left=remaining_seconds(reading),
        base_url=base_url(request),
        **context,
    )


@router.get("/jobs/{job_id}")
def overview(request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the state of a job and its measurements."""
    reading = reads.job(resources.database, project, job_id)
    history = job_timeline.read(resources.database, project, job_id)
    report = reading.job.report or {}
    metrics = reads.metrics(resources.database, project, job_id, name=None, max_points=300)
    return _page(
        request,
        reading,
        "",
        history=history,
        drawing=timeline(history.intervals, now=reading.now),
        stages=report_table.stages(report) if report else [],
        comparisons=report_table.comparisons(report) if report else [],
        protocol_line=lambda name: protocol_line(report.get("protocol") or {}, name),
        report=report,
        charts=job_charts.charts(metrics, history.phases),
    )


@router.get("/jobs/{job_id}/curves.json")
def curves(job_id: str, resources: ResourcesDep, project: ProjectDep) -> JSONResponse:
    """Return the charts of a job as numbers, for our script."""
    metrics = reads.metrics(resources.database, project, job_id, name=None, max_points=500)
    phases = job_timeline.read(resources.database, project, job_id).phases
    return JSONResponse({chart.name: chart.document() for chart in job_charts.charts(metrics, phases)})


@router.get("/jobs/{job_id}/layers")
def layers(request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the matrices: maps, and the table that holds the same."""
    reading = reads.job(resources.database, project, job_id)
    rows = reads.layers(resources.database, project, job_id, after=-1, limit=MATRICES)
    errors = errors_range(rows)
    maps = {
        measure: heat_map(f"map-{index}", rows, measure, errors if measure.startswith("error") else None)
        for index, measure in enumerate(MEASURES)
    }
    table = (
        matrix_table(rows, caption=f"{len(rows)} matrices, in the order in which they were pruned") if rows else None
    )
    titles = {measure: what.title for measure, what in MEASURES.items()}
    return _page(request, reading, "layers", maps=maps, titles=titles, table=table)


@router.get("/jobs/{job_id}/events")
def events(
    request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep, before: int | None = None
) -> Response:
    """Show what happened, newest first."""
    reading = reads.job(resources.database, project, job_id)
    rows = job_timeline.events(resources.database, project, job_id, before=before, limit=ROWS + 1)
    older = f"/portal/jobs/{reading.job.id}/events?before={rows[ROWS - 1].seq}" if len(rows) > ROWS else None
    return _page(request, reading, "events", rows=rows[:ROWS], older=older, newest=before is None)


@router.get("/jobs/{job_id}/log")
def log(
    request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep, before: str | None = None
) -> Response:
    """Show what the child wrote, newest last, as logs are read."""
    reading = reads.job(resources.database, project, job_id)
    rows = job_timeline.log(resources.database, project, job_id, before=before, limit=ROWS + 1)
    older = f"/portal/jobs/{reading.job.id}/log?before={rows[ROWS - 1].id}" if len(rows) > ROWS else None
    return _page(request, reading, "log", rows=rows[:ROWS][::-1], older=older, newest=before is None)


@router.get("/jobs/{job_id}/files", dependencies=[needs("artifacts:read")])
def files(request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the files of the result."""
    reading = reads.job(resources.database, project, job_id)
    rows = reads.artifacts(resources.database, project, job_id, after="", limit=FILES)
    artifacts.note_read(resources, "list", job_id)
    return _page(request, reading, "files", rows=rows)


@router.get("/jobs/{job_id}/spec")
def spec(request: Request, job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Show the request and the resolved spec."""
    reading = reads.job(resources.database, project, job_id)
    return _page(request, reading, "spec")


@router.get("/files/{artifact_id}", dependencies=[needs("artifacts:read")])
def download(artifact_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Give a file of a result."""
    artifact = artifacts.get(resources.database, project, artifact_id)
    artifacts.note_read(resources, "download", artifact.id)
    if url := artifacts.url(resources.store, artifact):
        return RedirectResponse(url, 307)
    chunks = artifacts.read(resources.store, artifact, artifacts.ByteRange(0, artifact.bytes))
    headers = {"Content-Disposition": attachment(artifact.name), "Content-Length": str(artifact.bytes)}
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")
