"""A request whose work is done, or in hand: found at POST where everything it names is pinned and was seen before."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries import reuse
from app.errors import InvalidRequest, NoEqualResult
from app.probe import check
from app.services import known
from app.specs.job import CompressionSpec, JobRequest
from app.specs.resolve import resolve


@dataclass(frozen=True)
class Recognised:
    """What is known of a request before it runs."""

    revision: str
    spec: CompressionSpec
    """Resolved."""
    work_hash: str | None
    """None while a text has not been seen."""


def recognise(
    session: Session, project_id: str, request: JobRequest, resolved: CompressionSpec | None
) -> Recognised | None:
    """Return what is known of a request; raises InvalidRequest when it does not fit a model that is."""
    model = known.model(session, project_id, request.source.model_dump(mode="json"))
    if model is None:
        return None
    if resolved is None:
        if problems := check(request.spec, model.facts):
            raise InvalidRequest("The spec does not fit the model.", items=problems)
        resolved = resolve(request.spec, model.facts)
    return Recognised(model.revision, resolved, known.hash_of(session, project_id, model.revision, resolved))


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
