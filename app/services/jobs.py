"""What users do to jobs: submit and cancel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import PRIORITIES, Job
from app.db.queries import events
from app.db.session import clock
from app.errors import IllegalTransition, NotFound
from app.ids import new_id
from app.services import idempotency, outbox
from app.services.admission import admit
from app.services.resources import Resources
from app.specs.job import ENGINE_VERSION, CompressionSpec, JobRequest
from app.specs.lifecycle import MOVES, JobState
from app.specs.source import model_name


@dataclass(frozen=True)
class Submitted:
    """The answer to a POST: the job, and whether an earlier equal call made it."""

    job_id: str
    replayed: bool


def submit(
    resources: Resources, project_id: str, request: JobRequest, sent: dict[str, Any], key: idempotency.Key | None
) -> Submitted:
    """Make a job of a valid request, once per Idempotency-Key: job, events and bell in one transaction."""
    if key and (found := _earlier(resources, key)):
        return Submitted(found, replayed=True)
    resolved = admit(request, resources.settings)
    with resources.database.unit_of_work() as session:
        now = clock(session)
        job = _new_job(project_id, request, sent, resolved, now)
        if key and (found := idempotency.claim(session, key, resource_id=job.id, now=now)):
            return Submitted(found, replayed=True)
        session.add(job)
        session.flush()
        created = {"name": job.name, "model": job.model, "method": job.method}
        events.append(session, job, [("job.created", created), ("job.queued", {"reason": "submitted"})], now=now)
        outbox.add_bell(session, job, now=now)
    resources.doorbell.ring(job.worker_class)
    return Submitted(job.id, replayed=False)


def _earlier(resources: Resources, key: idempotency.Key) -> str | None:
    with resources.database.reading() as session:
        return idempotency.earlier(session, key, now=clock(session))


def _new_job(
    project_id: str, request: JobRequest, sent: dict[str, Any], resolved: CompressionSpec | None, now: datetime
) -> Job:
    model = model_name(request.source)
    step = request.spec.prune[0] if request.spec.prune else None
    return Job(
        id=new_id("job"), project_id=project_id, parent_id=None,
        name=request.name or (f"{model} {step.method} {step.share:.0%}" if step else f"{model} recovery"),
        labels=dict(request.labels), priority=PRIORITIES[request.priority],
        initiator={"type": "user", "id": "local"}, request=sent,
        resolved_spec=resolved.model_dump(mode="json") if resolved else None,
        resolved_revision=None, work_hash=None, engine_version=ENGINE_VERSION,
        model=model, method=step.method if step else "none",
        state="queued", phase=None, wait_reason="capacity", failures={}, lease_until=None, worker_id=None,
        not_before=None, cancel_requested_at=None, checkpoints=[], error=None, gate=None, report=None, warnings=[],
        created_at=now, queued_at=now, started_at=None, finished_at=None,
    )  # fmt: skip


def cancel(resources: Resources, project_id: str, job_id: str) -> None:
    """End a job: at once when nobody holds it, else by its worker within two seconds; twice is as good as once."""
    with resources.database.unit_of_work() as session:
        job = events.lock(session, job_id, project_id=project_id)
        if job is None:
            raise NotFound
        if job.state in {"cancelling", "cancelled"}:
            return
        _cancel(session, job, now=clock(session))
        worker_class = job.worker_class
    resources.doorbell.ring(worker_class)


def _cancel(session: Session, job: Job, *, now: datetime) -> None:
    state: JobState = job.state  # type: ignore[assignment]
    if "cancelling" in MOVES[state]:
        target: JobState = "cancelling"
    elif "cancelled" in MOVES[state]:
        target = "cancelled"
    else:
        allowed = ", ".join(sorted(MOVES[state])) or "nothing"
        raise IllegalTransition(f"The job is {state} and cannot be cancelled; from {state} a job can go to: {allowed}.")
    told: list[events.NewEvent] = [("job.cancel_requested", {})]
    if target == "cancelled":
        told.append(("job.cancelled", {}))
    job.cancel_requested_at = now
    events.move(session, job, target, told, now=now)
