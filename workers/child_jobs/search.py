"""Search trials as child jobs, one at a time; the best trial's result becomes the parent's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.bodies.stored import stored_spec
from app.db.job import Job
from app.db.queries.jobs import events, reuse
from app.db.queries.queue import leases
from app.services.jobs import children
from app.services.reuse import result_reuse
from espalier.errors import NothingKeptError
from espalier.families.sizes import Sizes
from espalier.messages import ErrorInfo
from espalier.recipe.base import canonical
from espalier.recipe.spec import CompressionSpec
from espalier.search import Outcome, Trial, search_for
from espalier.search.trials import failed_by_its_spec
from workers.lease import transitions
from workers.lease.retries import JobFailed
from workers.lease.transitions import Transition


def next_step(spec: CompressionSpec, sizes: Mapping[str, Any] | None, trials: Sequence[Job]) -> Transition | None:
    """Return how the attempt of a job with an objective ends: with the next trial, or with the best one's result.

    None for a job without an objective; raises JobFailed where the search has no result. `sizes`: of the model's
    parts, as the fetcher wrote them down.
    """
    search = search_for(spec, Sizes.model_validate_json(canonical(sizes)) if sizes else None)
    if search is None:
        return None
    try:
        step = search.next([_outcome(trial) for trial in trials])
    except NothingKeptError as error:
        raise JobFailed(ErrorInfo.of(error, None)) from None
    if isinstance(step, Trial):
        return lambda session, job, now: spawn(session, job, step, now)
    winner = trials[step.index]
    rows = [{"job_id": trial.id, **row} for trial, row in zip(trials, step.objective["trials"], strict=False)]
    objective = {**step.objective, "job_id": winner.id, "trials": rows}
    return lambda session, job, now: take(session, job, winner.id, objective, now)


def _outcome(trial: Job) -> Outcome:
    spec = stored_spec(trial.request["spec"])
    if trial.state == "succeeded" and trial.report is not None:
        return Outcome(spec, trial.report)
    error = trial.error or {}
    if failed_by_its_spec(error.get("class"), error.get("phase")):
        return Outcome(spec, None)
    raise JobFailed(
        ErrorInfo.model_validate(
            {
                "class": error.get("class", "internal"),
                "retryable": False,
                "phase": None,
                "message": f"{trial.name} ({trial.id}) is {trial.state}: {error.get('message', '')}",
                "hint": error.get("hint") or "Retry this job: trials that did not succeed are tried again.",
            }
        )
    )


def spawn(session: Session, job: Job, trial: Trial, now: datetime) -> None:
    """Release a locked job and create its next trial as a child."""
    if transitions.apply_user_request(session, job, now=now):
        return
    children.add(session, job, trial.spec, name=f"{job.name} {trial.label}", checkpoints=[], now=now)
    transitions.wait(session, job, now=now)


def take(session: Session, job: Job, winner_id: str, objective: dict[str, Any], now: datetime) -> None:
    """End a locked job with the result of one of its children; where that was deleted, let the search go on."""
    if transitions.apply_user_request(session, job, now=now):
        return
    winners = reuse.held(session, [winner_id])
    if not winners:
        transitions.wait(session, job, now=now)
        return
    mine = job.work_hash, job.resolved_spec
    rows = result_reuse.copy_result(session, job, winners[0], now=now)
    job.work_hash, job.resolved_spec = mine
    job.report = {**(winners[0].job.report or {}), "objective": objective}
    leases.end_attempt(session, job, "succeeded", now=now)
    events.move(session, job, "succeeded", rows, now=now)
