"""A request whose work is done, or in hand: found at POST where everything it names is pinned and was seen before."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries import reuse
from app.errors import NoEqualResult
from app.services import known
from app.services.admission import Admitted, Desk, Recognised
from app.specs.job import CompressionSpec, JobRequest


def admitted(session: Session, project_id: str, request: JobRequest, desk: Desk) -> Admitted:
    """Admit a request, and return what is known of it; raises what must be refused."""
    found = desk.admit(request)
    return replace(found, recognised=recognise(session, project_id, request, found.spec, desk))


def recognise(
    session: Session, project_id: str, request: JobRequest, resolved: CompressionSpec | None, desk: Desk
) -> Recognised | None:
    """Return what is known of a request; raises InvalidRequest when it does not fit a model that is.

    Asked before a transaction is begun: patterns are matched and facts read, which nobody else should wait for.
    """
    model = desk.met(session, project_id, request)
    if model is None:
        return None
    resolved = resolved or desk.resolved(request.spec, model.facts)
    work_hash = known.hash_of(session, project_id, model.revision, resolved)
    return Recognised(model.revision, resolved, model.facts, work_hash)


def place(session: Session, job: Job, found: Recognised, wish: str) -> Job | None:
    """Write what is known into a new job, let it wait for equal work in hand, and return the job that has done it.

    That job is held until this transaction ends. Raises NoEqualResult when it may do nothing else and there is none.
    """
    job.resolved_spec, job.resolved_revision = found.spec.model_dump(mode="json"), found.revision
    job.work_hash = found.work_hash
    if wish == "never" or found.work_hash is None:
        return None
    if done := reuse.held_done(session, job.project_id, found.work_hash, but=job.id):
        return done
    leader = reuse.in_flight(session, job.project_id, found.work_hash, before=job.id)
    if leader is not None:
        job.wait_reason, job.waits_for = "dependency", leader.id
    elif wish == "require":
        raise NoEqualResult
    return None
