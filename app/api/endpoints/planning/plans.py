"""Plans and models: what a request would take, and what a source is, before there is a job."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Response
from pydantic import Field

from app.api.deps import KeyDep, again, replayed
from app.api.endpoints.jobs.jobs import EXAMPLES
from app.api.views import View
from app.bodies.job import PlanRequest
from app.db.planning import Plan
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.integrations.systems import Source
from app.services.plans import lookup, plans
from espalier.recipe.base import Spec

router = APIRouter(prefix="/v1", tags=["plans"])
PlanId = Annotated[str, Path(description="`pln_` and a ULID.")]


class PlannedPhaseView(View):
    """Estimated cost of one phase."""

    name: str
    seconds: float
    memory_bytes: int
    """At once, on the device that computes."""
    disk_bytes: int
    """Bytes that it leaves in the cache, the working folder or the store."""


class PlanWarningView(View):
    """Something to know before the job runs."""

    code: str
    text: str


class PlanView(View):
    """A dry run; a job submitted with its id must ask for the same."""

    id: str
    resolved_spec: dict[str, Any] | None
    """With every default filled in; null while the source is unknown."""
    resolved_revision: str | None
    phases: list[PlannedPhaseView]
    seconds: float | None
    """Of all phases and of starting them; waiting not counted. Null while the source is unknown."""
    calibrated_by: int
    """Number of finished jobs of the worker class that calibrate the seconds; 0: a guess."""
    worker_class: str
    queue_position: int
    """Of a job that is submitted now, among the project's own."""
    reusable_job_id: str | None
    """The job whose result an equal one would take over at once."""
    warnings: list[PlanWarningView]
    created_at: datetime
    expires_at: datetime


class ResolveRequest(Spec):
    """A source of a model."""

    source: Source = Field(description="As in a job.")


class ModelView(View):
    """A resolved source."""

    resolved: bool
    """False for a remote source that could not be read from here; `warnings` tell why, and a job may still read it."""
    supported: bool | None
    why_not: str | None
    """The reason why it cannot be compressed."""
    revision: str | None
    architecture: str | None
    model_type: str | None
    parameters: int | None
    bytes: int | None
    dtype: str | None
    max_positions: int | None
    num_blocks: int | None
    licence: str | None
    warnings: list[PlanWarningView]
    """`source_gated`, `source_not_found` (to the public) or `hub_unreachable`, in words."""


@router.post("/plans", status_code=201, dependencies=[PresetsDep], responses=again(PlanView))
async def create_plan(
    body: Annotated[PlanRequest, Body(openapi_examples=EXAMPLES)],
    response: Response,
    resources: ResourcesDep,
    project: ProjectDep,
    key: KeyDep,
) -> PlanView:
    """Work out what a job would take, without making one."""

    def make() -> Plan:
        return replayed(
            response,
            lambda: plans.create(resources, project, body, key=key),
            lambda made: plans.get(resources, project, made),
        )

    plan = await resources.lookups.run(project, make)
    response.headers["Location"] = f"/v1/plans/{plan.id}"
    return _view(plan)


@router.get("/plans/{plan_id}")
def get_plan(plan_id: PlanId, resources: ResourcesDep, project: ProjectDep) -> PlanView:
    """Show a plan as it was made."""
    return _view(plans.get(resources, project, plan_id))


@router.post("/models/resolve")
async def resolve_model(body: ResolveRequest, resources: ResourcesDep, project: ProjectDep) -> ModelView:
    """Resolve a source, and tell whether its model can be compressed."""
    model = await resources.lookups.run(project, lambda: lookup.resolve(resources, project, body.source))
    return ModelView.model_validate(model)


def _view(plan: Plan) -> PlanView:
    return PlanView.model_validate(
        {"id": plan.id, "created_at": plan.created_at, "expires_at": plan.expires_at, **plan.document}
    )
