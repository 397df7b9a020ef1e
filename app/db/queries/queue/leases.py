"""Who holds a job: claim, heartbeat, release, expired leases. A writer names its fence; an old fence finds no row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, and_, cast, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from app.db.job import CLAIMABLE, CLAIMABLE_VIEW, HELD, Attempt, Job, Worker
from app.db.lifecycle import TERMINAL
from app.db.queries.jobs import events
from app.db.queries.queue import fair_share
from app.db.queries.tenancy import quotas
from app.db.session import clock
from app.platform.ids import new_id

JobQuery = Select[Job]
"""Which jobs are wanted; `lock_oldest` reads them."""


@dataclass(frozen=True)
class WorkerIdentity:
    """What a worker is, as its row says it."""

    id: str
    worker_class: str
    host: str
    pid: int
    device: str
    engine_version: str
    memory_bytes: int | None = None


def register(session: Session, worker: WorkerIdentity) -> None:
    """Write the row of a worker that starts."""
    now = clock(session)
    session.merge(
        Worker(
            id=worker.id,
            worker_class=worker.worker_class,
            host=worker.host,
            pid=worker.pid,
            device=worker.device,
            memory_bytes=worker.memory_bytes,
            drain_requested_at=None,
            device_lost_at=None,
            engine_version=worker.engine_version,
            job_id=None,
            started_at=now,
            seen_at=now,
        )
    )


def seen(
    session: Session, worker_id: str, *, job_id: str | None, device_lost: bool = False, now: datetime | None = None
) -> None:
    """Record the heartbeat of a worker, and its job or why it has none."""
    now = now or clock(session)
    lost_at = func.coalesce(Worker.device_lost_at, now) if device_lost else None
    values = {"seen_at": now, "job_id": job_id, "device_lost_at": lost_at}
    session.execute(update(Worker).where(Worker.id == worker_id).values(values))


def set_memory(session: Session, worker_id: str, memory_bytes: int) -> None:
    """Record the memory of a worker's device, where the device itself has told it."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(memory_bytes=memory_bytes))


def claim(session: Session, worker: WorkerIdentity, *, lease_seconds: float) -> Job | None:
    """Take the next job of the worker's class, or None: of the project whose turn it is, the first in its own queue.

    On Postgres the inner SELECT skips rows that another worker is taking; on SQLite the transaction is IMMEDIATE.
    A job made by a newer engine than ours is left to a worker that knows it, and a worker that is to drain gets none.
    One statement does it all to the job's row: every further one is another wait while many claim.
    """
    now = clock(session)
    fits = and_(
        or_(Job.not_before.is_(None), Job.not_before <= now),
        cast(Job.engine_version, Integer) <= int(worker.engine_version),
        ~exists().where(Worker.id == worker.id, Worker.drain_requested_at.is_not(None)),
    )
    projects = fair_share.projects_by_usage(session, worker.worker_class, fits, now=now)
    bounded = quotas.bounded(session, projects, now)
    for project in projects:
        # Locked and counted again, so that two claims count one after the other.
        if project in bounded and (bounded[project] or quotas.is_capped(session, project, now)):
            continue
        job = _take(session, worker, project, fits, now=now, lease_seconds=lease_seconds)
        if job is not None:
            _begin_attempt(session, job, worker, now)
            return job
    return None


def _take(
    session: Session,
    worker: WorkerIdentity,
    project_id: str,
    fits: ColumnElement[bool],
    *,
    now: datetime,
    lease_seconds: float,
) -> Job | None:
    candidate = (
        select(Job.id)
        .where(CLAIMABLE, Job.worker_class == worker.worker_class, Job.project_id == project_id, fits)
        .order_by(Job.turn, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return session.scalar(
        update(Job)
        .where(Job.id == candidate.scalar_subquery())
        .values(
            state="running",
            fence=Job.fence + 1,
            attempt=Job.attempt + 1,
            worker_id=worker.id,
            lease_until=now + timedelta(seconds=lease_seconds),
            wait_reason=None,
            waits_for=None,
            not_before=None,
            pending_until=None,
            started_at=func.coalesce(Job.started_at, now),
            finished_at=None,
            event_seq=Job.event_seq + 1,
        )
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def _begin_attempt(session: Session, job: Job, worker: WorkerIdentity, now: datetime) -> None:
    newest = job.checkpoints[-1] if job.checkpoints else None
    resumed_from = {"phase": newest["phase"], "name": newest["name"]} if newest else None
    attempt = {
        "id": new_id("att"),
        "project_id": job.project_id,
        "job_id": job.id,
        "number": job.attempt,
        "fence": job.fence,
        "worker_id": worker.id,
        "outcome": None,
        "error": None,
        "resumed_from": resumed_from,
        "started_at": now,
        "finished_at": None,
    }
    session.execute(insert(Attempt), [attempt])
    seen(session, worker.id, job_id=job.id, now=now)
    data: dict[str, Any] = {"worker_id": worker.id, "resumed": job.attempt > 1, "resumed_from": resumed_from}
    events.write(session, job, [("job.started", data)], last=job.event_seq, now=now)


def heartbeat(session: Session, job_id: str, fence: int, *, worker_id: str, lease_seconds: float) -> str | None:
    """Extend the lease and return the job's state; None when the job is no longer ours."""
    now = clock(session)
    state = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.fence == fence, HELD)
        .values(lease_until=now + timedelta(seconds=lease_seconds))
        .returning(Job.state)
        .execution_options(synchronize_session=False)
    )
    if state is not None:
        seen(session, worker_id, job_id=job_id, now=now)
    return state


def state_of(session: Session, job_id: str, fence: int) -> str | None:
    """Return the job's state without a write; None when the lease was lost."""
    return session.scalar(select(Job.state).where(Job.id == job_id, Job.fence == fence, HELD))


def held(session: Session, job_id: str, fence: int) -> Job | None:
    """Lock the job's row for a write of its holder; None when the fence has moved on: then write nothing."""
    mine = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.fence == fence, HELD)
        .values(fence=fence)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return events.lock(session, job_id) if mine is not None else None


def end_attempt(
    session: Session, job: Job, outcome: str, *, now: datetime, error: dict[str, Any] | None = None
) -> None:
    """Close the row of the job's current attempt and add its time to the job's, no longer than the lease was held.

    A worker that is gone computes nothing: what passes until somebody notices is neither used nor held against limits.
    """
    attempt = session.scalar(select(Attempt).where(Attempt.job_id == job.id, Attempt.number == job.attempt))
    assert attempt is not None
    if attempt.finished_at is None:
        until = min(now, job.lease_until or attempt.started_at)
        seconds = max((until - attempt.started_at).total_seconds(), 0.0)
        job.running_seconds += seconds
        device = session.scalar(select(Worker.device).where(Worker.id == attempt.worker_id))
        quotas.charge(session, job.project_id, seconds=seconds, gpu=device == "cuda", now=now)
        fair_share.note(session, job.project_id, job.worker_class, began=attempt.started_at, ended=until)
    attempt.outcome, attempt.error, attempt.finished_at = outcome, error, now
    if attempt.worker_id:
        session.execute(
            update(Worker).where(Worker.id == attempt.worker_id, Worker.job_id == job.id).values(job_id=None)
        )


def fail(session: Session, job_id: str, error: dict[str, Any], *, now: datetime) -> None:
    """Fail a job that is not over by its row alone, without an event: its holder finds no row any more."""
    session.execute(
        update(Job)
        .where(Job.id == job_id, Job.state.not_in(TERMINAL))
        .values(
            state="failed",
            error=error,
            fence=Job.fence + 1,
            lease_until=None,
            worker_id=None,
            wait_reason=None,
            pending_until=None,
            finished_at=now,
        )
    )


def lock_oldest(session: Session, wanted: JobQuery, *, limit: int, but: Sequence[str] = ()) -> list[Job]:
    """Lock the oldest of the wanted jobs; those that another transaction holds are passed over."""
    query = wanted.where(Job.id.not_in(but)).order_by(Job.id).limit(limit)
    return list(session.scalars(query.with_for_update(skip_locked=True, of=Job)))


def lock_still(session: Session, wanted: JobQuery, job_id: str) -> Job | None:
    """Lock one job if it is still among the wanted ones and no other transaction holds it."""
    return session.scalar(wanted.where(Job.id == job_id).with_for_update(skip_locked=True, of=Job))


def abandoned(now: datetime) -> JobQuery:
    """Select jobs whose worker is gone: the lease expired, or was never written."""
    return select(Job).where(HELD, or_(Job.lease_until.is_(None), Job.lease_until < now))


def overdue(now: datetime) -> JobQuery:
    """Select jobs that waited longer than they may, queued or paused."""
    return select(Job).where(Job.pending_until < now)


def unheard(session: Session, now: datetime, *, older_than_seconds: float) -> list[str]:
    """Return the worker classes that have claimable jobs which nobody has taken for a while."""
    due = now - timedelta(seconds=older_than_seconds)
    query = select(Job.worker_class).join(CLAIMABLE_VIEW, CLAIMABLE_VIEW.c.job_id == Job.id)
    return list(session.scalars(query.where(Job.queued_at < due).distinct()))
