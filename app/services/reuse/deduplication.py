"""Deduplication at POST: a request whose work is done, or in hand, where its sources are pinned and cached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.orm import Session

from app.bodies.job import JobRequest
from app.db.job import Job
from app.db.queries.jobs import reuse
from app.db.queries.jobs.reuse import Held
from app.errors import NoEqualResult
from app.services.admission.admit import Admitted, Desk, Identified
from espalier.recipe.spec import CompressionSpec

_AHEAD: Final = "equal work ahead"


@dataclass(frozen=True)
class _Ahead:
    """Equal work in the project, done or in hand, of all jobs that one transaction makes."""

    done: dict[str, Held]
    """Work -> the job that has done it."""
    leaders: dict[str, str]
    """Work in hand -> the oldest job that is about it."""

    def leader(self, work_hash: str, job_id: str) -> str | None:
        """Return the job that a new one would wait for; where there is none, the new one leads those after it."""
        first = self.leaders.setdefault(work_hash, job_id)
        return first if first != job_id else None


def admitted(session: Session, project_id: str, request: JobRequest, desk: Desk) -> Admitted:
    """Admit a request and identify its work; raises what must be refused."""
    checked = desk.admit(request)
    return replace(checked, identified=identify(session, project_id, request, checked.spec, desk))


def identify(
    session: Session, project_id: str, request: JobRequest, resolved: CompressionSpec | None, desk: Desk
) -> Identified | None:
    """Identify the work of a request whose model is cached; raises InvalidRequest where the spec does not fit.

    Asked before a transaction is begun: patterns are matched and facts read, which nobody else should wait for.
    """
    model = desk.met(session, project_id, request)
    if model is None:
        return None
    resolved = resolved or desk.resolved(request.spec, model.facts)
    work_hash = desk.work_hash(session, project_id, model.revision, resolved)
    return Identified(model.revision, resolved, model.facts, work_hash)


def look_ahead(session: Session, project_id: str, admitted: Iterable[Admitted]) -> None:
    """Ask once about the work of many jobs that this transaction makes."""
    hashes = {known.work_hash for one in admitted if (known := one.identified) and known.work_hash}
    done, leaders = reuse.all_held_done(session, project_id, hashes), reuse.leaders(session, project_id, hashes)
    session.info[_AHEAD] = _Ahead(done, leaders)


def place(session: Session, job: Job, identified: Identified, reuse_mode: str) -> Held | None:
    """Write what is known into a new job, let it wait for equal work in hand, and return the job that has done it.

    That job is held until this transaction ends. Raises NoEqualResult when it may do nothing else and there is none.
    """
    job.resolved_spec, job.resolved_revision = identified.spec.model_dump(mode="json"), identified.revision
    job.work_hash = identified.work_hash
    work, ahead = identified.work_hash, session.info.get(_AHEAD)
    leader = ahead.leader(work, job.id) if ahead and work else None
    if reuse_mode == "never" or work is None:
        return None
    done = ahead.done.get(work) if ahead else reuse.held_done(session, job.project_id, work, but=job.id)
    if done is not None:
        return done
    if ahead is None and (first := reuse.in_flight(session, job.project_id, work, before=job.id)):
        leader = first.id
    if leader is not None:
        job.wait_reason, job.waits_for = "dependency", leader
    elif reuse_mode == "require":
        raise NoEqualResult
    return None
