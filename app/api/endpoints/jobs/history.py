"""The history and measurements of a job: events, log, metrics, layers, attempts, report."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as FromQuery
from pydantic import Field

from app.api.deps import JobId, PagerDep
from app.api.paging import Page, PageQuery, Query
from app.api.views import (
    AttemptView,
    EventView,
    LayerView,
    LogView,
    SeriesView,
    attempt_view,
    event_view,
    layer_view,
    log_view,
    series_view,
)
from app.dependencies import ProjectDep, ResourcesDep
from app.services.jobs import reads

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


class EventQuery(PageQuery):
    """Resume position in the events of a job."""

    after: int = Field(0, ge=0, lt=2**63, description="Show events with a higher seq.")


class MetricQuery(Query):
    """Filter of the series, and the number of points of each."""

    name: str | None = Field(None, max_length=200, description="One series only.")
    max_points: int = Field(500, ge=2, le=5000, description="Longer series are thinned to about this many points.")


@router.get("/events")
def list_events(
    job_id: JobId,
    query: Annotated[EventQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[EventView]:
    """List what happened, in order."""
    after = pager.number(query, query.after)
    rows = reads.events(resources.database, project, job_id, after=after, limit=query.limit + 1)
    return pager.page(query, rows, event_view, lambda row: row.seq)


@router.get("/logs")
def list_log_lines(
    job_id: JobId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[LogView]:
    """List the lines of the log, oldest first."""
    after = pager.position(query) or ""
    rows = reads.logs(resources.database, project, job_id, after=after, limit=query.limit + 1)
    return pager.page(query, rows, log_view, lambda row: row.id)


@router.get("/layers")
def list_layers(
    job_id: JobId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[LayerView]:
    """List the pruned matrices, in the order in which they were done."""
    after = pager.number(query, -1)
    rows = reads.layers(resources.database, project, job_id, after=after, limit=query.limit + 1)
    return pager.page(query, rows, layer_view, lambda row: row.position)


@router.get("/attempts")
def list_attempts(
    job_id: JobId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[AttemptView]:
    """List the attempts, first to last."""
    after = pager.number(query, 0)
    rows = reads.attempts(resources.database, project, job_id, after=after, limit=query.limit + 1)
    return pager.page(query, rows, attempt_view, lambda row: row.number)


@router.get("/metrics")
def list_metrics(
    job_id: JobId, query: Annotated[MetricQuery, FromQuery()], resources: ResourcesDep, project: ProjectDep
) -> Page[SeriesView]:
    """List every metric series, thinned."""
    metrics = reads.metrics(resources.database, project, job_id, name=query.name, max_points=query.max_points)
    return Page(items=[series_view(series) for series in metrics], next_cursor=None)


@router.get("/report")
def get_report(job_id: JobId, resources: ResourcesDep, project: ProjectDep) -> dict[str, Any]:
    """Show before and after, and the protocol; 409 until the job has succeeded."""
    return reads.report(resources.database, project, job_id)
