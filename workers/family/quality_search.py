"""The search of a bound on quality: trials are child jobs, one at a time, and the best one's result is the job's."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries import events, leases, reuse
from app.services.jobs import children
from app.services.reuse import adoption
from espalier.messages import ErrorInfo
from espalier.recipe.base import canonical
from espalier.recipe.objective import Objective, Trial
from espalier.recipe.prune import PruneStep
from espalier.recipe.spec import CompressionSpec
from workers.lease import endings
from workers.lease.retries import JobFailed

_LOST = frozenset({"numerical", "collapsed"})
"""Errors that say something of a sparsity; any other says something of the machine."""


def go_on(spec: CompressionSpec, found: list[Job]) -> None:
    """Raise Handover with the next trial or the end of the search; JobFailed when there is neither."""
    objective = spec.objective
    if not isinstance(objective, Objective):
        return
    step = spec.prune[0]
    assert isinstance(step, PruneStep)
    trials = [_trial(child) for child in found]
    sparsity = objective.next(trials, step.share)
    if sparsity is not None:
        raise endings.Handover(lambda session, job, now: _spawn(session, job, sparsity, len(trials) + 1, now))
    best = objective.best(trials)
    if best is None:
        raise JobFailed(_nothing_keeps_it(objective, trials))
    winner = found[trials.index(best)]
    rows = [
        {"job_id": child.id, "sparsity": t.sparsity, "relative_increase": t.increase, "kept": objective.keeps(t)}
        for child, t in zip(found, trials, strict=True)
    ]
    told = {**objective.model_dump(), "sparsity": best.sparsity, "job_id": winner.id, "trials": rows}
    raise endings.Handover(lambda session, job, now: take(session, job, winner.id, told, now))


def _trial(child: Job) -> Trial:
    report = report_of(child)
    return Trial(float(child.request["spec"]["prune"][0]["sparsity"]), None if report is None else increase(report))


def report_of(child: Job) -> dict[str, Any] | None:
    """What a trial measured; None when it gave no model, JobFailed when that says nothing of what was tried."""
    if child.state == "succeeded" and child.report is not None:
        return child.report
    error = child.error or {}
    if error.get("class") in _LOST:
        return None
    raise JobFailed(
        ErrorInfo.model_validate(
            {
                "class": error.get("class", "internal"),
                "retryable": False,
                "phase": None,
                "message": f"{child.name} ({child.id}) is {child.state}: {error.get('message', '')}",
                "hint": error.get("hint") or "Retry this job: trials that did not succeed are tried again.",
            }
        )
    )


def increase(report: dict[str, Any]) -> float:
    """Relative increase of perplexity over the dense model, the largest of all measurements."""
    dense, now = report["dense"]["perplexity"], report["compressed"]["perplexity"]
    return max(float(now[name]) / float(dense[name]) - 1 for name in now)


def _spawn(session: Session, job: Job, sparsity: float, number: int, now: datetime) -> None:
    spec = alone(job)
    trial = spec.model_copy(update={"prune": [spec.prune[0].model_copy(update={"sparsity": sparsity})]})
    spawn(session, job, trial, name=f"{job.name} trial {number}: {sparsity:.2%}", now=now)


def alone(job: Job) -> CompressionSpec:
    """The job's spec without what is the search's."""
    spec = CompressionSpec.model_validate_json(canonical(job.resolved_spec))
    return spec.model_copy(update={"objective": None, "output": spec.output.model_copy(update={"publish": []})})


def spawn(session: Session, job: Job, trial: CompressionSpec, *, name: str, now: datetime) -> None:
    """Let a locked job go until a child of it has tried something."""
    if endings.granted(session, job, now=now):
        return
    children.add(session, job, trial, name=name, checkpoints=[], now=now)
    endings.wait(session, job, now=now)


def take(session: Session, job: Job, winner_id: str, told: dict[str, Any], now: datetime) -> None:
    """End a locked job with the result of one of its children; where that was deleted, let it look at the others."""
    if endings.granted(session, job, now=now):
        return
    winners = reuse.held(session, [winner_id])
    if not winners:
        endings.wait(session, job, now=now)
        return
    mine = job.work_hash, job.resolved_spec
    rows = adoption.take_over(session, job, winners[0], now=now)
    job.work_hash, job.resolved_spec = mine
    job.report = {**(winners[0].job.report or {}), "objective": told}
    leases.end_attempt(session, job, "succeeded", now=now)
    events.move(session, job, "succeeded", rows, now=now)


def _nothing_keeps_it(objective: Objective, trials: list[Trial]) -> ErrorInfo:
    tried = ", ".join(f"{trial.sparsity:.1%}" for trial in trials)
    return ErrorInfo(
        class_="invalid_spec", retryable=False, phase=None,
        message=f"nothing tried keeps the bound of {objective.max_relative_perplexity_increase:.1%}: {tried}",
        hint="Raise objective.max_relative_perplexity_increase or max_trials, or begin at a lower prune.sparsity.",
    )  # fmt: skip
