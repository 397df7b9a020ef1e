"""The decision of a rule about an event, without its effect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.bodies.hooks import Match, RuleLimits, Template
from app.bodies.job import JobRequest
from app.db.hook import Rule
from app.db.session import Database
from app.errors import AppError
from app.integrations.shared.hooks import RegistryEvent
from app.services import uploads
from app.services.admission.admit import Admitted, Desk
from app.services.hooks import guard
from app.services.hooks.guard import Stop
from app.services.hooks.matching import Check, match_event
from app.services.hooks.template import Unfilled, spec_of, values_of
from app.settings import Settings
from espalier.recipe import presets
from espalier.recipe.base import canonical
from espalier.recipe.refusals import pointers


@dataclass(frozen=True)
class CandidateJob:
    """The job that an event would become."""

    sent: dict[str, Any]
    admitted: Admitted


@dataclass(frozen=True)
class RuleDecision:
    """The outcome of a rule for an event; `candidate` is set when the template gives a valid job."""

    outcome: str
    reason: str
    detail: str
    checks: list[Check]
    event: RegistryEvent
    candidate: CandidateJob | None = None


@dataclass(frozen=True)
class EvaluationContext:
    """What the evaluation of a rule reads: session, settings and time."""

    session: Session
    database: Database
    settings: Settings
    now: datetime


OUTCOMES = {"dry_run": "dry_run", "propose": "proposal", "run": "job"}
"""Mode of a rule -> what an event becomes that it lets through."""


def decide(context: EvaluationContext, rule: Rule, event: RegistryEvent) -> RuleDecision:
    """Evaluate one rule for an event, up to the job that it would become. Presets are those of `presets.LOOKUP`."""
    event, checks = match_event(Match.model_validate(rule.match), event)
    failed = [check for check in checks if not check.passed]
    if failed:
        return RuleDecision("no_match", failed[0].name, failed[0].detail, checks, event)
    stop = guard.ours(context.session, rule.project_id, event)
    checks.append(_check("loop-guard", stop, "nothing says that we made this"))
    if stop is not None:
        return RuleDecision("ignored", stop.reason, stop.detail, checks, event)
    stop = guard.publishing(context.session, rule.project_id, event, now=context.now)
    if stop is not None:
        checks.append(_check("loop-guard", stop, ""))
        return RuleDecision("waiting", stop.reason, stop.detail, checks, event)
    try:
        candidate = _candidate(context, rule, event)
    except (Unfilled, ValidationError, AppError) as error:
        detail = _reason(error)
        return RuleDecision("refused", "no-valid-job", detail, [*checks, Check("template", False, detail)], event)
    stop = guard.limited(rule, RuleLimits.model_validate(rule.limits), now=context.now)
    checks += [Check("template", True, "a valid job"), _check("limits", stop, "below the cap, not in a cooldown")]
    if stop is not None:
        return RuleDecision("limited", stop.reason, stop.detail, checks, event, candidate)
    return RuleDecision(OUTCOMES[rule.mode], "matched", "every check holds", checks, event, candidate)


def _check(name: str, stop: Stop | None, otherwise: str) -> Check:
    return Check(name, stop is None, stop.detail if stop else otherwise)


def _candidate(context: EvaluationContext, rule: Rule, event: RegistryEvent) -> CandidateJob:
    spec = spec_of(Template.model_validate(rule.template), values_of(event))
    sent = {"source": event.source, "spec": presets.expanded(spec), "labels": {"espalier.rule": rule.id}}
    request = JobRequest.model_validate_json(canonical(sent))
    database, project = context.database, rule.project_id
    desk = Desk(context.settings, lambda id_, kind: uploads.finished(database, project, id_, kind))
    return CandidateJob(sent, desk.identify(context.session, project, desk.admit(request)))


def _reason(error: Unfilled | ValidationError | AppError) -> str:
    """Return why there is no valid job, in one line that repeats no value."""
    if isinstance(error, ValidationError):
        errors = error.errors(include_input=False, include_url=False)
        return "; ".join(f"{pointers.join(item['loc'])}: {item['msg']}" for item in errors[:5])
    if isinstance(error, AppError):
        return "; ".join([error.detail, *(f"{item.pointer}: {item.detail}" for item in error.items[:5])])
    return str(error)
