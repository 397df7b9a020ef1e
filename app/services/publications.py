"""Publications: asked for by a job's spec or afterwards, done at least once, retried, never of a rejected result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.publication import Publication
from app.db.queries.connections import publications
from app.db.queries.jobs import events, jobs
from app.db.queries.round_robin import ProjectRoundRobin
from app.db.queries.tenancy import audit
from app.db.session import Database, clock
from app.errors import GateRejected, NotFinished, NotFound
from app.integrations.systems import read_source, read_target, target_name
from app.platform import actor as actors
from app.platform.ids import new_id
from app.services import idempotency
from app.services.idempotency import Key
from espalier.recipe.steps.publish import PublishTarget

LEASE = timedelta(minutes=5)
"""A publication whose publisher died is done again after this."""
DELAYS_SECONDS = (10, 60, 300, 1800, 7200)


def rejected(gate: dict[str, Any] | None) -> bool:
    """Tell whether a result must not be published."""
    return (gate or {}).get("verdict") == "rejected"


def row(job: Job, target: dict[str, Any], *, now: datetime, reference: str | None = None) -> Publication:
    """Return a publication of a job; with a reference, one that is done."""
    return Publication(
        id=new_id("pub"),
        project_id=job.project_id,
        job_id=job.id,
        target=at_home(target, job),
        state="succeeded" if reference else "pending",
        attempts=1 if reference else 0,
        next_at=now,
        locked_until=None,
        reference=reference,
        error=None,
        created_at=now,
        finished_at=now if reference else None,
    )


def add(session: Session, job: Job, made: Publication) -> None:
    """Write down a publication, and that somebody asked for it: who acts, or else who made the job."""
    session.add(made)
    actor = actors.current()
    audit.add(
        session,
        "publication.create",
        made.id,
        project_id=job.project_id,
        now=made.created_at,
        by=actor.document() if actor else job.initiator,
        data={"job_id": job.id, **_place(made.target)},
    )


def create(
    database: Database, project_id: str, job_id: str, target: PublishTarget, *, key: Key | None = None
) -> Publication:
    """Ask for a publication of a succeeded job's result; raises NotFinished, GateRejected."""
    with database.unit_of_work() as session:
        now = clock(session)
        job = _job(session, project_id, job_id)
        if job.state != "succeeded":
            raise NotFinished(f"The job is {job.state}; only a succeeded job has something to publish.")
        if rejected(job.gate):
            raise GateRejected
        made = row(job, target.model_dump(mode="json"), now=now)
        idempotency.once(session, key, made.id, now=now)
        add(session, job, made)
    return made


def again(database: Database, publication_id: str) -> Publication:
    """Return what an equal call has made: a key of its project names it."""
    with database.reading() as session:
        row = publications.find(session, publication_id)
    assert row is not None
    return row


def page(database: Database, project_id: str, job_id: str, *, before: str | None, limit: int) -> Sequence[Publication]:
    """Return the publications of a job, newest first."""
    with database.reading() as session:
        return publications.page(session, _job(session, project_id, job_id).id, before=before, limit=limit)


def claim(session: Session, rounds: ProjectRoundRobin) -> Publication | None:
    """Take the next publication that is due, for a while: by turns of the projects, and one of each at a time."""
    now = clock(session)
    row = publications.lock_due(session, now, rounds)
    if row is not None:
        row.locked_until = now + LEASE
    return row


def keep(session: Session, publication_id: str) -> bool:
    """Hold a publication for longer; False when it is gone."""
    row = publications.find(session, publication_id, lock=True)
    if row is None:
        return False
    row.locked_until = clock(session) + LEASE
    return True


def succeed(session: Session, publication_id: str, reference: str) -> None:
    """Write down that a publication is done."""
    row = publications.find(session, publication_id, lock=True)
    if row is None:
        return
    now = clock(session)
    row.state, row.reference, row.error, row.finished_at = "succeeded", reference, None, now
    row.attempts += 1
    job = events.lock(session, row.job_id)
    if job is not None:
        events.append(session, job, [("job.published", event_data(row.target, reference))], now=now)


def fail(session: Session, publication_id: str, error: dict[str, Any]) -> None:
    """Write down that a publication failed, and when it is tried again."""
    row = publications.find(session, publication_id, lock=True)
    if row is None:
        return
    now = clock(session)
    row.attempts, row.error, row.locked_until = row.attempts + 1, error, None
    if error.get("retryable") and row.attempts <= len(DELAYS_SECONDS):
        row.next_at = now + timedelta(seconds=DELAYS_SECONDS[row.attempts - 1])
    else:
        row.state, row.finished_at = "failed", now


def event_data(target: dict[str, Any], reference: str) -> dict[str, Any]:
    """Return the data of a `job.published` event."""
    return {**_place(target), "reference": reference}


def _place(target: dict[str, Any]) -> dict[str, Any]:
    return {"kind": target["kind"], "target": target_name(target) or None}


def at_home(target: dict[str, Any], job: Job) -> dict[str, Any]:
    """Return a target with what it leaves to the job's source."""
    return read_target(target).beside(read_source(job.request["source"])).model_dump(mode="json")


def _job(session: Session, project_id: str, job_id: str) -> Job:
    job = jobs.get(session, project_id, job_id)
    if job is None:
        raise NotFound
    return job
