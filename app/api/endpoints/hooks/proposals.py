"""Proposals: jobs that rules would make, and that wait for a person."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi import Query as FromQuery
from pydantic import Field

from app.api.deps import PagerDep
from app.api.paging import Page, PageQuery
from app.api.views import InitiatorView, View
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.services.hooks import proposals

router = APIRouter(prefix="/v1/hook-proposals", tags=["hooks"])
ProposalId = Annotated[str, Path(description="`prp_` and a ULID.")]
State = Literal["waiting", "approved", "rejected"]


class ProposalQuery(PageQuery):
    """Filters of the list of proposals."""

    state: State | None = None
    rule_id: str | None = Field(None, max_length=64)


class ProposalView(View):
    """A job that a rule would make."""

    id: str
    delivery_id: str
    rule_id: str
    model: str
    request: dict[str, Any]
    """The body of the job, as `POST /v1/jobs` takes it."""
    plan_id: str
    """The plan of the proposed job, made at the time of the event: `GET /v1/plans/{id}`."""
    state: State
    job_id: str | None
    """Once it is approved."""
    decided_by: InitiatorView | None
    decided_at: datetime | None
    created_at: datetime


@router.get("")
def list_proposals(
    query: Annotated[ProposalQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[ProposalView]:
    """List proposals, newest first."""
    rows = proposals.page(
        resources,
        project,
        before=pager.position(query),
        limit=query.limit + 1,
        state=query.state,
        rule_id=query.rule_id,
    )
    return pager.page(query, rows, ProposalView.model_validate, lambda row: row.id)


@router.get("/{proposal_id}")
def get_proposal(proposal_id: ProposalId, resources: ResourcesDep, project: ProjectDep) -> ProposalView:
    """Show a proposal."""
    return ProposalView.model_validate(proposals.get(resources, project, proposal_id))


@router.post("/{proposal_id}/approve", dependencies=[PresetsDep])
def approve_proposal(proposal_id: ProposalId, resources: ResourcesDep, project: ProjectDep) -> ProposalView:
    """Make the job of a proposal; approved again it stays that one job."""
    return ProposalView.model_validate(proposals.approve(resources, project, proposal_id))


@router.post("/{proposal_id}/reject")
def reject_proposal(proposal_id: ProposalId, resources: ResourcesDep, project: ProjectDep) -> ProposalView:
    """Let a proposal be."""
    return ProposalView.model_validate(proposals.reject(resources, project, proposal_id))
