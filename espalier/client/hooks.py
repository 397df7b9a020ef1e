"""The client's side of registry events: sources, rules, deliveries, proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from espalier.client.models import View

Call = Callable[..., dict[str, Any]]
Pages = Callable[..., Iterator[dict[str, Any]]]


class HookSource(View):
    """A registry whose events are taken."""

    id: str
    kind: str
    name: str
    path: str
    secret: str | None = None
    """Only in the answer that made it."""


class Rule(View):
    """Which events of a source become which jobs."""

    id: str
    source_id: str
    name: str
    mode: str
    enabled: bool = True
    match: dict[str, Any] = {}
    template: dict[str, Any] = {}
    limits: dict[str, Any] = {}


class Verdict(View):
    """What one rule made of a delivery, and why."""

    rule_id: str
    outcome: str
    reason: str
    detail: str
    job_id: str | None = None
    proposal_id: str | None = None


class HookDelivery(View):
    """An event of a registry."""

    id: str
    source_id: str
    via: str
    state: str
    event: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    received_at: datetime


class TriedRule(View):
    """What a rule would make of an event."""

    outcome: str
    reason: str
    detail: str
    checks: list[dict[str, Any]] = []
    request: dict[str, Any] | None = None


class Proposal(View):
    """A job that a rule would make, and that waits for a person."""

    id: str
    rule_id: str
    delivery_id: str
    model: str
    state: str
    plan_id: str
    job_id: str | None = None
    request: dict[str, Any] = {}


class Hooks:
    """What can be asked about registry events; `client.hooks` is one."""

    def __init__(self, call: Call, pages: Pages) -> None:
        self._call, self._pages = call, pages

    def sources(self) -> list[HookSource]:
        """Return the sources."""
        return [HookSource.model_validate(item) for item in self._pages("/v1/hook-sources")]

    def create_source(self, kind: str, name: str, *, secret: str | None = None) -> HookSource:
        """Make a source; its secret is in the answer and never again. A lost answer is not asked for again."""
        body = {"kind": kind, "name": name, "secret": secret}
        return HookSource.model_validate(self._call("POST", "/v1/hook-sources", json=body, once=True))

    def rotate_secret(self, source: str, *, secret: str | None = None, overlap_seconds: int = 86_400) -> HookSource:
        """Rotate a source's secret; the old one stays valid for a while."""
        body = {"secret": secret, "overlap_seconds": overlap_seconds}
        answer = self._call("POST", f"/v1/hook-sources/{source}/rotate-secret", json=body, once=True)
        return HookSource.model_validate(answer)

    def delete_source(self, source: str) -> None:
        """Remove a source with all that belongs to it."""
        self._call("DELETE", f"/v1/hook-sources/{source}")

    def rules(self) -> list[Rule]:
        """Return the rules."""
        return [Rule.model_validate(item) for item in self._pages("/v1/rules")]

    def create_rule(self, body: Mapping[str, Any]) -> Rule:
        """Make a rule. A lost answer is not asked for again."""
        return Rule.model_validate(self._call("POST", "/v1/rules", json=body, once=True))

    def change_rule(self, rule: str, **fields: Any) -> Rule:  # noqa: ANN401 - JSON
        """Change a rule."""
        return Rule.model_validate(self._call("PATCH", f"/v1/rules/{rule}", json=fields))

    def delete_rule(self, rule: str) -> None:
        """Remove a rule; jobs that it made stay."""
        self._call("DELETE", f"/v1/rules/{rule}")

    def try_rule(
        self, rule: str, *, delivery: str | None = None, payload: Mapping[str, Any] | None = None
    ) -> TriedRule:
        """Evaluate a rule on a delivery or a document without effects."""
        given = {"delivery_id": delivery, "payload": payload}
        body = {name: value for name, value in given.items() if value is not None}
        return TriedRule.model_validate(self._call("POST", f"/v1/rules/{rule}/test", json=body))

    def deliveries(self) -> Iterator[HookDelivery]:
        """Yield deliveries, newest first."""
        for item in self._pages("/v1/hook-deliveries"):
            yield HookDelivery.model_validate(item)

    def delivery(self, delivery: str) -> HookDelivery:
        """Return one delivery."""
        return HookDelivery.model_validate(self._call("GET", f"/v1/hook-deliveries/{delivery}"))

    def replay(self, delivery: str) -> HookDelivery:
        """Evaluate a delivery again with the current rules."""
        return HookDelivery.model_validate(self._call("POST", f"/v1/hook-deliveries/{delivery}/replay"))

    def proposals(self, *, state: str | None = "waiting") -> list[Proposal]:
        """Return proposals, those that wait if nothing else is asked for."""
        params = {"state": state} if state else {}
        return [Proposal.model_validate(item) for item in self._pages("/v1/hook-proposals", params)]

    def approve(self, proposal: str) -> Proposal:
        """Make the job of a proposal, once."""
        return Proposal.model_validate(self._call("POST", f"/v1/hook-proposals/{proposal}/approve"))

    def reject(self, proposal: str) -> Proposal:
        """Reject a proposal."""
        return Proposal.model_validate(self._call("POST", f"/v1/hook-proposals/{proposal}/reject"))
