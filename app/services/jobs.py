"""Submit: a valid request becomes a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app import actor as actors
from app.db.job import PRIORITIES, Job
from app.db.queries import events, tenancy
from app.db.session import clock
from app.ids import new_id
from app.services import adoption, equal_work, idempotency, outbox, projects, uploads
from app.services.admission import Admitted, admit
from app.services.resources import Resources
from app.specs.job import ENGINE_VERSION, JobRequest
from app.specs.source import model_name


@dataclass(frozen=True)
class Submitted:
    """The answer to a POST: the job, whether an earlier equal call made it, or an earlier equal job did its work."""

    job_id: str
    replayed: bool = False
    reused: bool = False


def submit(
    resources: Resources, project_id: str, request: JobRequest, sent: dict[str, Any], key: idempotency.Key | None,
    *, cloned_from: str | None = None,
) -> Submitted:  # fmt: skip
    """Make a job of a valid request, once per Idempotency-Key: job, events and bell in one transaction."""
    if key and (found := _earlier(resources, key)):
        return Submitted(found, replayed=True)
    admitted = admit(
        request, resources.settings, lambda id_, kind: uploads.finished(resources.database, project_id, id_, kind)
    )
    with resources.database.unit_of_work() as session:
        now = clock(session)
        job = _new_job(project_id, request, sent, admitted, now)
        known = equal_work.recognise(session, project_id, request, admitted.spec)
        done = equal_work.place(session, job, known, request.reuse) if known else None
        if key and (found := idempotency.claim(session, key, resource_id=job.id, now=now)):
            return Submitted(found, replayed=True)
        projects.admit_job(session, actors.current(), project_id)
        session.add(job)
        session.flush()
        created = {"name": job.name, "model": job.model, "method": job.method}
        created |= {"cloned_from": cloned_from} if cloned_from else {}
        tenancy.audit(session, "job.create", job.id, now=now)
        if done is not None:
            events.append(session, job, [("job.created", created)], now=now)
            adoption.born(session, job, done, now=now)
            return Submitted(job.id, reused=True)
        queued = {"reason": "submitted", **({"waits_for": job.waits_for} if job.waits_for else {})}
        events.append(session, job, [("job.created", created), ("job.queued", queued)], now=now)
        outbox.add_bell(session, job, now=now)
    resources.doorbell.ring(job.worker_class)
    return Submitted(job.id)


def _earlier(resources: Resources, key: idempotency.Key) -> str | None:
    with resources.database.reading() as session:
        return idempotency.earlier(session, key, now=clock(session))


def _new_job(project_id: str, request: JobRequest, sent: dict[str, Any], admitted: Admitted, now: datetime) -> Job:
    model = model_name(request.source)
    step = request.spec.prune[0] if request.spec.prune else None
    return Job(
        id=new_id("job"), project_id=project_id, parent_id=None,
        name=request.name or (f"{model} {step.method} {step.amount}" if step else f"{model} recovery"),
        labels=dict(request.labels), priority=PRIORITIES[request.priority],
        initiator=(actors.current() or actors.LOCAL).document(), request=sent,
        resolved_spec=admitted.spec.model_dump(mode="json") if admitted.spec else None,
        worker_class=admitted.worker_class,
        resolved_revision=None, work_hash=None, engine_version=ENGINE_VERSION,
        model=model, method=step.method if step else "none",
        state="queued", phase=None, wait_reason="capacity", failures={}, lease_until=None, worker_id=None,
        not_before=None, cancel_requested_at=None, checkpoints=[], error=None, gate=None, report=None, warnings=[],
        created_at=now, queued_at=now, started_at=None, finished_at=None,
    )  # fmt: skip
