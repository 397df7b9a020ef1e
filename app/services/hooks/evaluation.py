"""Evaluation of deliveries by rules: each pair makes at most one job or proposal, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from sqlalchemy.orm import Session

from app.bodies.hooks import RuleLimits
from app.db.hook import HookDelivery, HookProposal, HookVerdict, Rule
from app.db.queries.connections import hooks
from app.db.queries.round_robin import ProjectRoundRobin
from app.db.queries.tenancy import projects
from app.db.session import Database, clock
from app.errors import AppError, QuotaExceeded
from app.platform import loops
from app.platform.actor import Actor, acting
from app.platform.ids import new_id
from app.services import presets
from app.services.hooks import guard, inbox
from app.services.hooks.decision import CandidateJob, EvaluationContext, RuleDecision, decide
from app.services.jobs import submit
from app.services.plans import plans
from app.settings import Settings
from espalier.recipe.presets import LOOKUP

AGAIN: Final = {"publication-under-way": timedelta(seconds=5), "quota": timedelta(seconds=30)}
"""When an event that waits for a publication is evaluated again."""
LONGEST_WAIT: Final = timedelta(days=1)
EFFECTS: Final = frozenset({"job", "proposal"})


@dataclass(frozen=True)
class Effect:
    """The effect of a rule on an event: a job, a proposal, or neither."""

    outcome: str
    reason: str
    detail: str
    job_id: str | None = None
    proposal_id: str | None = None
    worker_class: str | None = None


def evaluate_next(database: Database, settings: Settings, rounds: ProjectRoundRobin | None = None) -> list[str] | None:
    """Hold the next delivery against the rules of its source, in one transaction; projects take turns.

    Returns the worker classes to notify; None when nothing is due. Killed anywhere, it has done nothing or all.
    Whatever a delivery raises, it is postponed, and given up in the end.
    """
    delivery_id = ""
    try:
        with database.unit_of_work() as session:
            delivery = hooks.claim_due(session, clock(session), rounds or ProjectRoundRobin())
            if delivery is None:
                return None
            delivery_id = delivery.id
            with structlog.contextvars.bound_contextvars(delivery_id=delivery_id), _presets(database, delivery):
                return evaluate_delivery(session, database, settings, delivery)
    except AppError as error:
        _postpone(database, delivery_id, error.detail)
    except BaseException as error:  # another one is evaluated next, whatever this one did
        if not delivery_id or isinstance(error, SystemExit):  # which undoes all, like a death
            raise
        loops.note("evaluation", error)
        _postpone(database, delivery_id, type(error).__name__)
    return []


def _postpone(database: Database, delivery_id: str, why: str) -> None:
    """Let a delivery that breaks us wait, and others pass."""
    with database.unit_of_work() as session:
        row = hooks.delivery(session, delivery_id)
        if row is None:
            return
        row.attempts, row.error = row.attempts + 1, why
        row.next_at = clock(session) + timedelta(seconds=loops.delay_seconds(row.attempts))
        if row.attempts >= loops.MOST_ATTEMPTS:
            row.state = "failed"


@contextmanager
def _presets(database: Database, delivery: HookDelivery) -> Iterator[None]:
    token = LOOKUP.set(presets.lookup(database, delivery.project_id))
    try:
        yield
    finally:
        LOOKUP.reset(token)


def evaluate_delivery(session: Session, database: Database, settings: Settings, delivery: HookDelivery) -> list[str]:
    """Evaluate one delivery by every rule of its source, and return the worker classes of the jobs that it makes."""
    event, project = inbox.event_of(delivery), projects.get(session, delivery.project_id)
    before = {verdict.rule_id: verdict for verdict in hooks.verdicts_of(session, [delivery.id])}
    again: list[timedelta] = []
    classes = set()
    for rule in hooks.rules_of(session, delivery.source_id):
        if rule.id in before and before[rule.id].outcome in EFFECTS:
            continue
        hook = Actor("hook", rule.id, delivery.project_id, frozenset(rule.scopes), project.quotas if project else {})
        with acting(hook):
            context = EvaluationContext(session, database, settings, clock(session))
            effect = _follow(context, delivery, rule, decide(context, rule, event))
        if effect.outcome == "waiting" and context.now > delivery.received_at + LONGEST_WAIT:
            effect = Effect("refused", effect.reason, f"{effect.detail}; it waited for a day")
        elif effect.outcome == "waiting":
            again.append(AGAIN[effect.reason])
        _write(session, delivery, rule, before.get(rule.id), effect, now=context.now)
        if effect.worker_class:
            classes.add(effect.worker_class)
    now = clock(session)
    delivery.evaluated_at, delivery.error = now, None
    if again:
        delivery.next_at = now + min(again)
    else:
        delivery.state = "evaluated"
    return sorted(classes)


def _follow(context: EvaluationContext, delivery: HookDelivery, rule: Rule, decision: RuleDecision) -> Effect:
    """Carry out a decision. The rule's row is locked from here on, so that its limits hold whoever else evaluates."""
    effect = Effect(decision.outcome, decision.reason, decision.detail)
    if decision.candidate is None or decision.outcome == "limited":
        return effect
    locked = hooks.lock_rule(context.session, rule.id)
    if locked is None:
        return Effect("ignored", "no-rule", "the rule was deleted")
    now = clock(context.session)
    if stop := guard.limited(locked, RuleLimits.model_validate(locked.limits), now=now):
        return Effect("limited", stop.reason, stop.detail)
    try:
        if decision.outcome == "job":
            effect = _job(context.session, delivery, rule, decision, decision.candidate, now=now)
        elif decision.outcome == "proposal":
            effect = _propose(context, delivery, rule, decision, decision.candidate, now=now)
    except QuotaExceeded as error:
        return Effect("waiting", "quota", error.detail)
    except AppError as error:
        return Effect("refused", "no-valid-job", error.detail)
    guard.count(locked, now=now)
    return effect


def _job(
    session: Session,
    delivery: HookDelivery,
    rule: Rule,
    decision: RuleDecision,
    candidate: CandidateJob,
    *,
    now: datetime,
) -> Effect:
    origin = {"rule_id": rule.id, "delivery_id": delivery.id}
    job = submit.new_job(delivery.project_id, candidate.sent, candidate.admitted, now)
    made = submit.write(session, job, candidate.admitted, None, origin, now)
    return Effect("job", decision.reason, decision.detail, job_id=made.job_id, worker_class=job.worker_class)


def _propose(
    context: EvaluationContext,
    delivery: HookDelivery,
    rule: Rule,
    decision: RuleDecision,
    candidate: CandidateJob,
    *,
    now: datetime,
) -> Effect:
    plan = plans.make(context.session, context.settings, delivery.project_id, candidate.admitted, now=now)
    row = HookProposal(
        id=new_id("prp"),
        project_id=delivery.project_id,
        delivery_id=delivery.id,
        rule_id=rule.id,
        model=decision.event.model,
        request=candidate.sent,
        plan_id=plan.id,
        state="waiting",
        job_id=None,
        decided_by=None,
        decided_at=None,
        created_at=now,
    )
    context.session.add(row)
    return Effect("proposal", decision.reason, decision.detail, proposal_id=row.id)


def _write(
    session: Session, delivery: HookDelivery, rule: Rule, row: HookVerdict | None, effect: Effect, *, now: datetime
) -> None:
    if row is None:
        row = HookVerdict(delivery_id=delivery.id, rule_id=rule.id, project_id=delivery.project_id)
        session.add(row)
    row.outcome, row.reason, row.detail = effect.outcome, effect.reason, effect.detail
    row.job_id, row.proposal_id, row.decided_at = effect.job_id, effect.proposal_id, now
    session.flush()
