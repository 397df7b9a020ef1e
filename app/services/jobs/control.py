"""What users do to a job that is there: cancel, pause, resume, retry, change and delete it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.bodies.control import JobPatch, Retry
from app.bodies.job import Limits
from app.db.job import PRIORITIES, Job, queue_rank
from app.db.lifecycle import ACTIONS, TERMINAL, Action, JobState, allowed
from app.db.queries.jobs import events, jobs
from app.db.queries.jobs.events import NewEvent
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import IllegalTransition, InvalidRequest, ModelRefused, NotFound
from app.platform import actor as actors
from app.services.admission import admit
from app.services.events import outbox
from app.services.jobs import children, rights
from app.services.resources import Resources
from app.services.tenancy import projects
from app.settings import Settings
from espalier.errors import InvalidForModel, Problem
from espalier.recipe.expressions import BadPattern, Selection

MORE_ATTEMPTS = 20
"""What a retry adds to the attempts that were made."""
MAX_LABELS = 64


def cancel(resources: Resources, project_id: str, job_id: str) -> None:
    """End a job: at once when nobody holds it, else by its worker within two seconds; twice is as good as once."""
    with _locked(resources, project_id, job_id, "cancel") as (session, job, now):
        if job.state in {"cancelling", "cancelled"}:
            return
        target = _target(job, "cancel")
        job.cancel_requested_at = now
        new_events: list[NewEvent] = [("job.cancel_requested", {})]
        if target == "cancelled":
            new_events.append(("job.cancelled", {}))
        events.move(session, job, target, new_events, now=now)
        children.cancel_all(session, job.id, now=now)


def pause(resources: Resources, project_id: str, job_id: str) -> None:
    """Let a job rest: at once when it is queued, else as soon as its worker has put down what is finished."""
    with _locked(resources, project_id, job_id, "pause") as (session, job, now):
        target = _target(job, "pause")
        events.move(session, job, target, [("job.paused", {})] if target == "paused" else [], now=now)


def resume(resources: Resources, project_id: str, job_id: str) -> None:
    """Queue a paused job again; it goes on from its last checkpoint."""
    with _locked(resources, project_id, job_id, "resume") as (session, job, now):
        target = _target(job, "resume")
        _queue(session, job, target, [("job.resumed", {}), ("job.queued", {"reason": "resumed"})], now)
        projects.admit_queued(session, actors.current(), project_id)
    resources.notifier.notify(job.worker_class)


def retry(resources: Resources, project_id: str, job_id: str, request: Retry) -> None:
    """Queue a job that ended without success again; attempts and events are counted on."""
    _refuse_patterns(resources, project_id, job_id)
    with _locked(resources, project_id, job_id, "retry") as (session, job, now):
        rights.require_to_submit(rights.targets_in(job.request["spec"]))
        target = _target(job, "retry")
        if request.limits is not None:
            _change_limits(job, request.limits, resources.settings)
        # The right to a high priority may have been withdrawn since the job was created.
        was = {number: name for name, number in PRIORITIES.items()}[job.priority]
        projects.admit_priority(session, resources.settings.mode, project_id, request.priority or was)
        if request.priority is not None:
            _set_priority(job, request.priority)
        if request.from_ == "start":
            job.checkpoints, job.progress, job.fetched_bytes = [], 0.0, None
        job.error, job.failures, job.not_before, job.cancel_requested_at = None, {}, None, None
        job.phase = None
        job.max_attempts, job.forgiven_seconds = job.attempt + MORE_ATTEMPTS, job.running_seconds
        _queue(session, job, target, [("job.queued", {"reason": "retried", "from": request.from_})], now)
        children.retry_all(session, job.id, now=now)
        projects.admit_queued(session, actors.current(), project_id)
    resources.notifier.notify(job.worker_class)


def _change_limits(job: Job, limits: Limits, settings: Settings) -> None:
    given, before = limits.model_dump(mode="json", exclude_unset=True), job.request.get("limits") or {}
    if given.get("gpus", before.get("gpus")) != before.get("gpus"):
        detail = "a job keeps its number of cards, which its checkpoints may depend on: clone it"
        raise InvalidRequest("The limits cannot be changed so.", items=[Problem("/limits/gpus", "fixed", detail)])
    admit.admit_limits(limits, settings)
    job.request = {**job.request, "limits": {**before, **given}}


def _refuse_patterns(resources: Resources, project_id: str, job_id: str) -> None:
    """Raise ModelRefused where a stored job has patterns that RE2 does not take: it could only fail again."""
    with resources.database.reading() as session:
        job = jobs.get(session, project_id, job_id)
    steps = job.request["spec"].get("prune") if job is not None else None
    for index, step in enumerate(steps if isinstance(steps, list) else [steps]):
        targets = (step.get("targets") if isinstance(step, dict) else None) or {}
        try:
            Selection(targets.get("include") or [], targets.get("exclude") or [])
        except BadPattern as error:
            problem = Problem(f"/spec/prune/{index}/targets/{error.place}", "bad-regex", str(error))
            detail = f"The job was made with a pattern that is not taken any more: {error}."
            hint = "Clone it with patterns in RE2 syntax."
            raise ModelRefused(InvalidForModel(detail, hint=hint, items=[problem])) from None


def change(resources: Resources, project_id: str, job_id: str, patch: JobPatch) -> None:
    """Change name and labels at any time, and the priority of a job that waits."""
    with _locked(resources, project_id, job_id, "change") as (session, job, _now):
        if patch.name is not None:
            job.name = patch.name
        if patch.labels is not None:
            job.labels = _merged(job.labels, patch.labels)
        if patch.priority is not None:
            if job.state not in {"queued", "paused"}:
                raise IllegalTransition(_refusal(job, "given another priority"))
            projects.admit_priority(session, resources.settings.mode, project_id, patch.priority)
            _set_priority(job, patch.priority)


def delete(resources: Resources, project_id: str, job_id: str) -> None:
    """Delete a job that is over with its events, metrics and log; unused files are collected within a day."""
    with _locked(resources, project_id, job_id, "delete") as (session, job, _now):
        if job.state not in TERMINAL:
            raise IllegalTransition(_refusal(job, "deleted"))
        session.delete(job)


@contextmanager
def _locked(resources: Resources, project_id: str, job_id: str, verb: str) -> Iterator[tuple[Session, Job, datetime]]:
    with resources.database.unit_of_work() as session:
        job = events.lock(session, job_id, project_id=project_id)
        if job is None:
            raise NotFound
        now = clock(session)
        yield session, job, now
        audit.record(session, f"job.{verb}", job_id, now=now)


_PARTICIPLES: dict[Action, str] = {"cancel": "cancelled", "pause": "paused", "resume": "resumed", "retry": "retried"}


def _target(job: Job, action: Action) -> JobState:
    state: JobState = job.state  # type: ignore[assignment]
    if state not in ACTIONS[action]:
        raise IllegalTransition(_refusal(job, _PARTICIPLES[action]))
    return ACTIONS[action][state]


def _refusal(job: Job, participle: str) -> str:
    state: JobState = job.state  # type: ignore[assignment]
    return f"The job is {state} and cannot be {participle}; allowed now: {', '.join(allowed(state))}."


def _queue(session: Session, job: Job, target: JobState, new_events: list[NewEvent], now: datetime) -> None:
    events.move(session, job, target, new_events, now=now)
    job.wait_reason = "capacity"
    outbox.add_wake_up_signal(session, job, now=now)


def _set_priority(job: Job, priority: str) -> None:
    job.priority = PRIORITIES[priority]
    job.turn = queue_rank(job.created_at, job.priority)


def _merged(labels: dict[str, Any], patch: dict[str, str | None]) -> dict[str, Any]:
    merged = {name: value for name, value in {**labels, **patch}.items() if value is not None}
    if len(merged) > MAX_LABELS:
        detail = f"a job has {MAX_LABELS} labels at most"
        raise InvalidRequest(f"With these, {detail}.", items=[Problem("/labels", "too-long", detail)])
    return merged
