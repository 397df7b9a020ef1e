"""Reuse of results: a job whose work is done gets rows of its own that point at the files of the result."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import events, reuse
from app.db.queries.jobs.reuse import Held
from app.db.result import Artifact
from app.db.session import add_rows, do_later
from app.platform.ids import new_id
from app.services import publications


def finish_with_result(session: Session, job: Job, done: Held, *, now: datetime) -> None:
    """Finish a locked job with the result of another one."""
    new_events = copy_result(session, job, done, now=now)
    events.move(session, job, "succeeded", new_events, now=now)


def begin_with_result(session: Session, job: Job, done: Held, *, now: datetime) -> None:
    """Begin a new job as succeeded, with the result of another one."""
    job.state, job.progress, job.started_at, job.finished_at, job.wait_reason = "succeeded", 1.0, now, now, None
    job.pending_until = None
    events.begin(session, job, copy_result(session, job, done, now=now), now=now)


def copy_result(session: Session, job: Job, done: Held, *, now: datetime) -> list[events.NewEvent]:
    """Copy the rows of a result, whose files are shared, and return the events of it."""
    theirs = done.job
    new_events: list[events.NewEvent] = [("job.gate_evaluated", theirs.gate)] if theirs.gate is not None else []
    rows = []
    for file in done.files:
        data: dict[str, Any] = {"name": file.name, "kind": file.kind, "bytes": file.bytes, "sha256": file.sha256}
        mine = new_id("art")
        rows.append(
            {"id": mine, "project_id": job.project_id, "job_id": job.id, "key": file.key, "created_at": now, **data}
        )
        new_events.append(("job.artifact_ready", {"id": mine, **data}))
    job.reused_from = theirs.reused_from or theirs.id
    job.report, job.gate, job.warnings = theirs.report, theirs.gate, theirs.warnings
    job.error, job.checkpoints = None, []
    job.resolved_spec, job.resolved_revision = theirs.resolved_spec, theirs.resolved_revision
    job.work_hash, job.waits_for, job.phase = theirs.work_hash, None, None
    add_rows(session, Artifact, rows)
    do_later(session, reuse.copy_history, (theirs.id, job.id))
    for target in [] if publications.rejected(job.gate) else _targets(job):
        publications.add(session, job, publications.row(job, target, now=now))
    new_events.append(("job.succeeded", {"artifacts": len(rows), "reused_from": job.reused_from}))
    return new_events


def _targets(job: Job) -> list[dict[str, Any]]:
    """Return the targets in the spec of a job; a reused result is published again."""
    targets: list[dict[str, Any]] = (job.request["spec"].get("output") or {}).get("publish") or []
    return targets
