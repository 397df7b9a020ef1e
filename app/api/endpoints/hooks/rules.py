"""Rules: which registry events become which jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from fastapi import Query as FromQuery
from pydantic import Field

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.hooks import Mode, RuleChange, RuleRequest, RuleTrial
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.services.hooks import rules

router = APIRouter(prefix="/v1/rules", tags=["hooks"])
RuleId = Annotated[str, Path(description="`rul_` and a ULID.")]


class RuleQuery(PageQuery):
    """Filters of the list of rules."""

    source_id: str | None = Field(None, max_length=64)


class RuleView(View):
    """A rule that turns matching events of a source into jobs."""

    id: str
    source_id: str
    name: str
    mode: Mode
    enabled: bool
    match: dict[str, Any]
    template: dict[str, Any]
    limits: dict[str, Any]
    day: str | None
    """The day (UTC) of the newest event that it let through,"""
    day_count: int
    """and how many it let through on it."""
    last_at: datetime | None
    """When it let the newest one through."""
    created_at: datetime
    updated_at: datetime


class CheckView(View):
    """One condition, and why it holds or not."""

    name: str
    passed: bool
    detail: str


class TrialView(View):
    """The decision of a rule on an event, without effects."""

    outcome: Literal["job", "proposal", "dry_run", "no_match", "ignored", "limited", "refused", "waiting"]
    reason: str
    detail: str
    checks: list[CheckView]
    event: dict[str, Any]
    """The event of the delivery, pinned to the reference that the rule is about."""
    request: dict[str, Any] | None
    """The body of the job, as `POST /v1/jobs` takes it."""


@router.post("", status_code=201, dependencies=[PresetsDep], responses=again(RuleView))
def create_rule(
    body: RuleRequest, response: Response, resources: ResourcesDep, project: ProjectDep, key: KeyDep
) -> RuleView:
    """Make a rule."""
    row = replayed(
        response,
        lambda: rules.create(resources, project, body, key=key),
        lambda made: rules.get(resources, project, made),
    )
    response.headers["Location"] = f"/v1/rules/{row.id}"
    return RuleView.model_validate(row)


@router.get("")
def list_rules(
    query: Annotated[RuleQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[RuleView]:
    """List rules, newest first."""
    before = pager.position(query)
    rows = rules.page(resources, project, before=before, limit=query.limit + 1, source_id=query.source_id)
    return pager.page(query, rows, RuleView.model_validate, lambda row: row.id)


@router.get("/{rule_id}")
def get_rule(rule_id: RuleId, resources: ResourcesDep, project: ProjectDep) -> RuleView:
    """Show a rule."""
    return RuleView.model_validate(rules.get(resources, project, rule_id))


@router.patch("/{rule_id}", dependencies=[PresetsDep])
def change_rule(rule_id: RuleId, body: RuleChange, resources: ResourcesDep, project: ProjectDep) -> RuleView:
    """Change a rule, switch it off, or on again."""
    return RuleView.model_validate(rules.change(resources, project, rule_id, body))


@router.delete("/{rule_id}", status_code=204)
def delete_rule(rule_id: RuleId, resources: ResourcesDep, project: ProjectDep) -> None:
    """Remove a rule with its verdicts and proposals; jobs that it made stay."""
    rules.delete(resources, project, rule_id)


@router.post("/{rule_id}/test", dependencies=[PresetsDep])
def test_rule(rule_id: RuleId, body: RuleTrial, resources: ResourcesDep, project: ProjectDep) -> TrialView:
    """Say what a rule would make of a delivery or of a document, and why; nothing is written."""
    decision = rules.trial(resources, project, rule_id, body)
    return TrialView(
        outcome=decision.outcome,
        reason=decision.reason,
        detail=decision.detail,
        checks=[CheckView.model_validate(check) for check in decision.checks],
        event=decision.event.model_dump(mode="json"),
        request=decision.candidate.sent if decision.candidate else None,
    )
