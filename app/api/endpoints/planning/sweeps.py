"""Sweeps: a request, lists of values, one job per combination, and the front of what came out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as FromQuery
from pydantic import Field

from app.api.deps import IdempotencyKeyHeader, PagerDep, SentDep
from app.api.paging import Page, PageQuery, Query
from app.api.views import View
from app.bodies.sweep import SweepRequest
from app.db.lifecycle import JobState
from app.dependencies import ActorDep, PresetsDep, ProjectDep, ResourcesDep
from app.services.idempotency import Key
from app.services.jobs import rights
from app.services.sweeps import sweeps

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])
SweepId = Annotated[str, Path(description="`swp_` and a ULID.")]


class SweepPointView(View):
    """One point of the grid."""

    job_id: str
    values: dict[str, Any]
    """JSON Pointer -> value."""
    state: JobState | None
    """Null when the job was deleted."""
    progress: float
    reused_from: str | None


class SweepView(View):
    """One sweep."""

    id: str
    project_id: str
    name: str
    state: str
    """queued, running, and at the end succeeded, or the worst that happened to one of its jobs."""
    counts: dict[str, int]
    """Jobs by state."""
    base: dict[str, Any]
    axes: dict[str, list[Any]]
    points: list[SweepPointView]
    created_at: datetime
    urls: dict[str, str]


class ParetoQuery(Query):
    """The measure on the x axis, against perplexity."""

    x: Literal["sparsity", "bytes", "packed_bytes", "seconds"] = Field(
        "sparsity", description="More of the first is better, less of the others."
    )
    metric: str | None = Field(None, max_length=64, description="Name of a measurement; default: the first by name.")


class ParetoPointView(View):
    """One result."""

    job_id: str | None
    """Null for the dense model."""
    values: dict[str, Any]
    x: float
    perplexity: float
    front: bool
    """Nothing else is as good in both and better in one."""
    dense: bool


class ParetoView(View):
    """The results of a sweep that are there, and which of them nothing beats."""

    x: str
    metric: str | None
    points: list[ParetoPointView]


@router.post(
    "",
    status_code=202,
    dependencies=[PresetsDep],
    responses={200: {"model": SweepView, "description": "An equal call was here before: its sweep as it is now."}},
)
def create_sweep(
    body: SweepRequest,
    sent: SentDep,
    request: Request,
    response: Response,
    resources: ResourcesDep,
    project: ProjectDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> SweepView:
    """Queue one job per combination of the axes' values."""
    path = request.url.path
    key = Key.of(project, "POST", path, key=idempotency_key, body=sent) if idempotency_key else None
    sweep_id, replayed = sweeps.create(resources, project, body, key)
    if replayed:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = f"/v1/sweeps/{sweep_id}"
    return _view(sweeps.get(resources.database, project, sweep_id))


@router.get("")
def list_sweeps(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[SweepView]:
    """List sweeps, newest first."""
    rows = sweeps.page(resources.database, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, lambda row: _view(sweeps.listed(resources.database, row)), lambda row: row.id)


@router.get("/{sweep_id}")
def get_sweep(sweep_id: SweepId, resources: ResourcesDep, project: ProjectDep) -> SweepView:
    """Show a sweep."""
    return _view(sweeps.get(resources.database, project, sweep_id))


@router.post("/{sweep_id}/cancel")
def cancel_sweep(sweep_id: SweepId, resources: ResourcesDep, actor: ActorDep) -> SweepView:
    """End every job of a sweep that is not over."""
    sweeps.cancel(resources, actor.project_id, sweep_id)
    view = _view(sweeps.get(resources.database, actor.project_id, sweep_id))
    # A caller without `jobs:read` gets the states of its jobs alone.
    return view if rights.has(actor, "jobs:read") else view.model_copy(update={"base": {}, "axes": {}, "points": []})


@router.get("/{sweep_id}/pareto")
def get_pareto(
    sweep_id: SweepId, query: Annotated[ParetoQuery, FromQuery()], resources: ResourcesDep, project: ProjectDep
) -> ParetoView:
    """Show what came out, against sparsity, bytes or seconds, and the front that nothing beats."""
    metric, points = sweeps.pareto(sweeps.get(resources.database, project, sweep_id), query.x, query.metric)
    rows = [ParetoPointView(**vars(point), dense=point.job_id is None) for point in points]
    return ParetoView(x=query.x, metric=metric, points=rows)


def _view(reading: sweeps.SweepReading) -> SweepView:
    sweep = reading.sweep
    rows = [(point, reading.jobs.get(point["job_id"])) for point in sweep.points]
    base = f"/v1/sweeps/{sweep.id}"
    return SweepView.model_validate(
        {
            "id": sweep.id,
            "project_id": sweep.project_id,
            "name": sweep.name,
            "state": reading.state,
            "counts": reading.counts,
            "base": sweep.base,
            "axes": sweep.axes,
            "created_at": sweep.created_at,
            "points": [
                {
                    **point,
                    "state": job.state if job else None,
                    "progress": job.progress if job else 0.0,
                    "reused_from": job.reused_from if job else None,
                }
                for point, job in rows
            ],
            "urls": {"self": base, "cancel": f"{base}/cancel", "pareto": f"{base}/pareto"},
        }
    )
