"""A job whose work is done takes the result over: its own rows, pointing at the files that are there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries import events, reuse
from app.db.result import Artifact
from app.ids import new_id
from app.services import publications
from app.specs.lifecycle import PHASES


def adopt(session: Session, job: Job, done: Job, *, now: datetime) -> None:
    """Make a locked job succeed with the result of another one, held."""
    told = take_over(session, job, done, now=now)
    events.move(session, job, "succeeded", told, now=now)


def born(session: Session, job: Job, done: Job, *, now: datetime) -> None:
    """Let a new job, already in the session, begin as the success that another one was."""
    job.state, job.progress, job.started_at, job.finished_at, job.wait_reason = "succeeded", 1.0, now, now, None
    job.pending_until = None
    events.append(session, job, take_over(session, job, done, now=now), now=now)


def take_over(session: Session, job: Job, done: Job, *, now: datetime) -> list[events.NewEvent]:
    """Copy what a result consists of, files apart, and return the events that tell it; `done` is held."""
    told: list[events.NewEvent] = [("job.gate_evaluated", done.gate)] if done.gate is not None else []
    rows = list(session.scalars(select(Artifact).where(Artifact.job_id == done.id).order_by(Artifact.id)))
    assert rows, "a result without files is nobody's to take over"
    for row in rows:
        data: dict[str, Any] = {"name": row.name, "kind": row.kind, "bytes": row.bytes, "sha256": row.sha256}
        mine = new_id("art")
        session.add(
            Artifact(id=mine, project_id=job.project_id, job_id=job.id, key=row.key, created_at=now, **data)
        )  # fmt: skip
        told.append(("job.artifact_ready", {"id": mine, **data}))
    reuse.copy_history(session, done.id, job.id, PHASES)
    job.reused_from = done.reused_from or done.id
    job.report, job.gate, job.error, job.checkpoints, job.warnings = done.report, done.gate, None, [], done.warnings
    job.resolved_spec, job.resolved_revision = done.resolved_spec, done.resolved_revision
    job.work_hash, job.waits_for, job.phase = done.work_hash, None, None
    for target in [] if publications.rejected(job.gate) else _targets(job):
        publications.add(session, job, publications.row(job, target, now=now))
    told.append(("job.succeeded", {"artifacts": len(rows), "reused_from": job.reused_from}))
    return told


def _targets(job: Job) -> list[dict[str, Any]]:
    """Where the spec of a job wants its result; whoever takes over a result publishes it anew."""
    found: list[dict[str, Any]] = (job.request["spec"].get("output") or {}).get("publish") or []
    return found
