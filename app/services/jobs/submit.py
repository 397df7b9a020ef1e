"""Submit: a valid request becomes a job."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.bodies.job import JobRequest
from app.db.job import PRIORITIES, Job
from app.db.queries.jobs import events
from app.db.queries.queue import queue_position
from app.db.queries.tenancy import audit
from app.db.session import clock
from app.errors import AppError
from app.platform import actor as actors
from app.platform import tracing
from app.platform.ids import new_id
from app.services import idempotency, uploads
from app.services.admission import routing
from app.services.admission.admit import Admitted, Desk
from app.services.events import outbox
from app.services.jobs import rights
from app.services.jobs.reads import JobReading
from app.services.plans import cautions, estimates, plans
from app.services.resources import Resources
from app.services.reuse import deduplication, result_reuse
from app.services.tenancy import projects
from espalier.recipe import presets
from espalier.recipe.spec import ENGINE_VERSION


@dataclass(frozen=True)
class Submitted:
    """The answer to a POST: the job, whether an earlier equal call made it, or an earlier equal job did its work."""

    job_id: str
    replayed: bool = False
    reused: bool = False
    reading: JobReading | None = None
    """Of a job that was just queued: nothing has to be read again."""


def submit(
    resources: Resources,
    project_id: str,
    request: JobRequest,
    sent: dict[str, Any],
    key: idempotency.Key | None,
    *,
    cloned_from: str | None = None,
) -> Future[Submitted]:
    """Make a job of a valid request, once per Idempotency-Key: job, events and wake-up signal in one transaction.

    What must be refused before a row is read is raised at once; the rest comes with the future.
    """
    rights.require_to_submit(request.spec.output.publish)
    try:
        admitted = admitted_of(resources, project_id, request)
    except AppError:
        if key and (existing_id := _resource_of(resources, key)):  # what was good then has its answer
            return _done(Submitted(existing_id, replayed=True))
        raise

    parent = tracing.traceparent()  # the transaction runs in another thread

    def work(session: Session, now: datetime) -> Submitted:
        job = new_job(project_id, sent, admitted, now)
        with tracing.span("enqueue", parent, job_id=job.id):
            job.traceparent = tracing.traceparent()
            return write(session, job, admitted, key, {"cloned_from": cloned_from} if cloned_from else {}, now)

    written = resources.commits.put(work, lane=project_id)
    written.add_done_callback(lambda done: _notify(resources, done))
    return written


def write(
    session: Session,
    job: Job,
    admitted: Admitted,
    key: idempotency.Key | None,
    origin: dict[str, Any],
    now: datetime,
) -> Submitted:
    """Write a new job and all that comes with it; every refusal comes before the first row."""
    request, spec = admitted.request, admitted.spec
    rights.require_to_submit(request.spec.output.publish)
    with session.no_autoflush:  # keys refer to nothing that waits in the session
        if key and (existing_id := idempotency.resource_of(session, key, now=now)):
            return Submitted(existing_id, replayed=True)
    done = deduplication.place(session, job, request.reuse)
    if done is None and spec is not None and admitted.facts is not None:
        limit = request.limits.max_host_memory_bytes
        routing.require_limit(session, limit, job.worker_class, spec, admitted.facts, now=now)

    def assumed() -> dict[str, float]:
        return estimates.assumed(routing.gpu_of(session, job.worker_class, now=now), spec, admitted.facts)

    job.warnings = cautions.of(session, job.project_id, job.worker_class, request.spec, admitted.works, assumed=assumed)
    if request.plan_id is not None:
        plans.check(session, job.project_id, request.plan_id, request.planned_sha256, now=now)
    projects.admit_priority(session, admitted.mode, job.project_id, request.priority)
    projects.admit_job(session, actors.current(), job.project_id)
    with session.no_autoflush:
        if key and (existing_id := idempotency.claim(session, key, resource_id=job.id, now=now)):
            return Submitted(existing_id, replayed=True)
    session.add(job)
    created = {"name": job.name, "model": job.model, "method": job.method, **origin}
    audit.record(session, "job.create", job.id, now=now)
    if done is not None:
        events.begin(session, job, [("job.created", created)], now=now)
        result_reuse.begin_with_result(session, job, done, now=now)
        return Submitted(job.id, reused=True)
    queued = {"reason": "submitted", **({"waits_for": job.waits_for} if job.waits_for else {})}
    events.begin(session, job, [("job.created", created), ("job.queued", queued)], now=now)
    outbox.add_wake_up_signal(session, job, now=now)
    return Submitted(job.id, reading=JobReading(job, now, None, queue_position.of_new(session, job)))


def desk(resources: Resources, project_id: str) -> Desk:
    """Return where the requests of one call of a project are admitted."""
    return Desk(resources.settings, lambda id_, kind: uploads.finished(resources.database, project_id, id_, kind))


def admitted_of(resources: Resources, project_id: str, request: JobRequest, at: Desk | None = None) -> Admitted:
    """Hold a request against its model and the project's uploads; raises what must be refused.

    All that takes time is done here, before the transaction that writes the job. `at`: of a call with many jobs.
    """
    at = at or desk(resources, project_id)
    admitted = at.admit(request)
    with resources.database.reading() as session:
        return at.identify(session, project_id, admitted)


def _notify(resources: Resources, written: Future[Submitted]) -> None:
    if written.exception() is None and (reading := written.result().reading) is not None:
        resources.notifier.notify(reading.job.worker_class)


def _done(submitted: Submitted) -> Future[Submitted]:
    done: Future[Submitted] = Future()
    done.set_result(submitted)
    return done


def _resource_of(resources: Resources, key: idempotency.Key) -> str | None:
    with resources.database.reading() as session:
        return idempotency.resource_of(session, key, now=clock(session))


def new_job(project_id: str, sent: dict[str, Any], admitted: Admitted, now: datetime) -> Job:
    """Return the row of a request as it was sent, not yet added."""
    request = admitted.request
    model = request.source.model_name
    step = request.spec.prune[0] if request.spec.prune else None
    return Job(
        id=new_id("job"),
        project_id=project_id,
        name=request.name or (f"{model} {step.method} {step.label}" if step else f"{model} recovery"),
        labels=dict(request.labels),
        priority=PRIORITIES[request.priority],
        initiator=(actors.current() or actors.LOCAL).document(),
        request={**sent, "spec": (spec := presets.expanded(sent["spec"]))},
        sent_spec=None if spec == sent["spec"] else sent["spec"],
        resolved_spec=admitted.spec.model_dump(mode="json") if admitted.spec else None,
        resolved_revision=admitted.revision,
        work_hash=admitted.work_hash,
        worker_class=admitted.worker_class,
        engine_version=ENGINE_VERSION,
        model=model,
        method=step.method if step else "none",
        state="queued",
        wait_reason="capacity",
        failures={},
        checkpoints=[],
        warnings=[],
        created_at=now,
        queued_at=now,
    )
