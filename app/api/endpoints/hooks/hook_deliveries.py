"""Deliveries of registries, with the verdict of each rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path
from fastapi import Query as FromQuery
from pydantic import Field

from app.api.deps import PagerDep
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.db.hook import HookDelivery, HookVerdict
from app.dependencies import ProjectDep, ResourcesDep
from app.services.hooks import inbox
from app.services.resources import Resources

router = APIRouter(prefix="/v1/hook-deliveries", tags=["hooks"])
DeliveryId = Annotated[str, Path(description="`dlv_` and a ULID.")]
State = Literal["pending", "evaluated", "failed"]


class DeliveryQuery(PageQuery):
    """Filters of the list of deliveries."""

    source_id: str | None = Field(None, max_length=64)
    state: State | None = None


class VerdictView(View):
    """The verdict of one rule on a delivery."""

    rule_id: str
    outcome: Literal["job", "proposal", "dry_run", "no_match", "ignored", "limited", "refused", "waiting"]
    """ignored: the loop guard; limited: cap or cooldown; refused: no valid job; waiting: a quota is used up."""
    reason: str
    detail: str
    job_id: str | None
    proposal_id: str | None
    decided_at: datetime


class RegistryDeliveryView(View):
    """An event of a registry."""

    id: str
    source_id: str
    via: Literal["webhook", "reconciliation"]
    """reconciliation: its delivery was lost, and polling the registry recovered it."""
    event: dict[str, Any]
    """The event in a form that all registries share."""
    state: State
    error: str | None
    """Why it could not be evaluated; it is tried again."""
    verdicts: list[VerdictView]
    """One per rule of the source; empty until it is evaluated, or where the source has no rule."""
    received_at: datetime
    evaluated_at: datetime | None


class FullDeliveryView(RegistryDeliveryView):
    """An event of a registry, with what came."""

    body: str | None
    """The document as it came."""


_View = TypeVar("_View", bound=RegistryDeliveryView)


def _shown(view: type[_View], row: HookDelivery, verdicts: Sequence[HookVerdict]) -> _View:
    named = {name: getattr(row, name) for name in view.model_fields if name != "verdicts"}
    return view.model_validate({**named, "verdicts": [VerdictView.model_validate(verdict) for verdict in verdicts]})


def _full(resources: Resources, row: HookDelivery) -> FullDeliveryView:
    return _shown(FullDeliveryView, row, inbox.verdicts(resources.database, row.id))


@router.get("")
def list_deliveries(
    query: Annotated[DeliveryQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[RegistryDeliveryView]:
    """List deliveries, newest first."""
    rows, verdict_rows = inbox.page(
        resources.database,
        project,
        before=pager.position(query),
        limit=query.limit + 1,
        source_id=query.source_id,
        state=query.state,
    )
    verdicts: dict[str, list[HookVerdict]] = defaultdict(list)
    for verdict in verdict_rows:
        verdicts[verdict.delivery_id].append(verdict)
    return pager.page(query, rows, lambda row: _shown(RegistryDeliveryView, row, verdicts[row.id]), lambda row: row.id)


@router.get("/{delivery_id}")
def get_delivery(delivery_id: DeliveryId, resources: ResourcesDep, project: ProjectDep) -> FullDeliveryView:
    """Show a delivery and what each rule made of it."""
    return _full(resources, inbox.delivery(resources.database, project, delivery_id))


@router.post("/{delivery_id}/replay", status_code=202)
def replay(delivery_id: DeliveryId, resources: ResourcesDep, project: ProjectDep) -> FullDeliveryView:
    """Hold a delivery against the rules as they are now; what it became before stays, and is not made again."""
    return _full(resources, inbox.replay(resources.database, project, delivery_id))
