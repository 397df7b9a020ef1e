"""Moves and events: every change of a job's state and the event that tells it, in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.db.job import Event, Job, pending_until
from app.db.lifecycle import TERMINAL, JobState, may_move
from app.db.queries.connections import webhooks
from app.db.session import add_rows
from app.platform.ids import new_id

NewEvent = tuple[str, dict[str, Any]]
"""(type, data) of an event to append."""


def begin(session: Session, job: Job, events: list[NewEvent], *, now: datetime) -> None:
    """Write events of a job that this transaction makes: its counter is inserted as it will stand."""
    first = (job.event_seq or 0) + 1
    job.event_seq = first + len(events) - 1
    rows = _rows(job, events, first, now, None)
    add_rows(session, Event, rows)
    webhooks.enqueue(session, job, rows, now=now)


def append(session: Session, job: Job, events: list[NewEvent], *, now: datetime, phase: str | None = None) -> int:
    """Append events to a job whose row this transaction holds; return the last seq.

    The counter is raised by an UPDATE, which takes the row lock: seq is strictly rising without a gap.
    """
    last = session.scalar(
        update(Job)
        .where(Job.id == job.id)
        .values(event_seq=Job.event_seq + len(events))
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    )
    assert last is not None
    write(session, job, events, last=int(last), now=now, phase=phase)
    return int(last)


def write(
    session: Session, job: Job, events: list[NewEvent], *, last: int, now: datetime, phase: str | None = None
) -> None:
    """Write events that the job's counter, held by this transaction, already has counted up to `last`."""
    rows = _rows(job, events, last - len(events) + 1, now, phase or job.phase)
    if rows:
        session.execute(insert(Event), rows)
        webhooks.enqueue(session, job, rows, now=now)


def _rows(job: Job, events: list[NewEvent], first: int, now: datetime, phase: str | None) -> list[dict[str, Any]]:
    return [
        {
            "job_id": job.id,
            "project_id": job.project_id,
            "seq": first + index,
            "id": new_id("evt"),
            "type": type_,
            "time": now,
            "attempt": max(job.attempt or 0, 1),
            "phase": phase,
            "data": data,
        }
        for index, (type_, data) in enumerate(events)
    ]


def lock(session: Session, job_id: str, *, project_id: str | None = None) -> Job | None:
    """Read a job and hold its row until the end of the transaction."""
    query = select(Job).where(Job.id == job_id).with_for_update().execution_options(populate_existing=True)
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    return session.scalar(query)


def move(session: Session, job: Job, state: JobState, events: list[NewEvent], *, now: datetime) -> None:
    """Move a locked job to another state and tell it; raises ValueError on a move that the table forbids."""
    old: JobState = job.state  # type: ignore[assignment]
    if not may_move(old, state):
        raise ValueError(f"a job cannot go from {old} to {state}")
    job.state = state
    if state in TERMINAL:
        job.finished_at = now
        job.progress = 1.0 if state == "succeeded" else job.progress
    if state == "queued":
        job.finished_at = None
    waits = state in {"queued", "paused"}
    job.queued_at = now if waits else job.queued_at
    job.pending_until = pending_until(job.request, now) if waits else None
    if state not in {"running", "pausing", "cancelling"}:
        job.lease_until = None
        job.worker_id = None
    if state != "queued":
        job.wait_reason = None
    session.flush()
    append(session, job, events, now=now)
