"""Transitions that end an attempt short of success, each in the transaction that takes the job from its worker."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import events
from app.db.queries.queue import leases
from espalier.messages import ErrorInfo
from workers.lease.holder import Reason
from workers.lease.retries import backoff_seconds, budget, charged_as, describe

Transition = Callable[[Session, Job, datetime], None]
"""What the last transaction of an attempt does to the locked job."""


def stop(session: Session, job: Job, reason: Reason, *, now: datetime) -> None:
    """End a locked job's attempt on request: the job is cancelled, paused, expired, or queued again uncharged."""
    if apply_user_request(session, job, now=now):
        return
    if reason == "overtime":
        expire(session, job, now=now)
        return
    _release(session, job, now=now)
    events.move(session, job, "queued", [("job.queued", {"reason": "worker_drained"})], now=now)
    job.wait_reason = "capacity"


def reroute(session: Session, job: Job, worker_class: str, *, now: datetime) -> None:
    """Queue a locked job for the workers that have the memory it turned out to need; nothing is charged."""
    if apply_user_request(session, job, now=now):
        return
    _release(session, job, now=now)
    job.worker_class = worker_class
    events.move(session, job, "queued", [("job.queued", {"reason": "rerouted", "worker_class": worker_class})], now=now)
    job.wait_reason = "capacity"


def finish_with_error(session: Session, job: Job, error: ErrorInfo, *, now: datetime) -> None:
    """End a locked job's attempt with an error: queue the job again with a back-off, or fail it for good."""
    if apply_user_request(session, job, now=now):
        return
    charge = charged_as(error)
    failures = {**job.failures, charge: int(job.failures.get(charge, 0)) + 1}
    document = describe(error, attempt=job.attempt)
    job.failures = failures
    outcome = "lost" if error.class_ == "worker_lost" else "failed"
    leases.end_attempt(session, job, outcome, now=now, error=document)
    failed: events.NewEvent = ("job.attempt_failed", {"error": document})
    if error.outside:
        job.max_attempts += 1
    if failures[charge] > budget(error) or job.attempt >= job.max_attempts:
        job.error = document
        events.move(session, job, "failed", [failed, ("job.failed", {"error": document})], now=now)
        return
    delay = backoff_seconds(error, failures[charge])
    job.not_before = now + timedelta(seconds=delay)
    retry: events.NewEvent = ("job.retry_scheduled", {"delay_seconds": round(delay, 3), "reason": error.class_})
    events.move(session, job, "queued", [failed, retry], now=now)
    job.wait_reason = "backoff"


def expire(session: Session, job: Job, *, now: datetime) -> None:
    """End a locked job, waiting or running, whose time limit ran out."""
    waits = job.state in {"queued", "paused"}
    limit = "max_pending_seconds" if waits else "max_run_seconds"
    error = ErrorInfo(
        class_="timeout",
        retryable=False,
        phase=None if waits else job.phase,
        message=f"limits.{limit} ran out",
        hint=f"Raise limits.{limit}, or give the job less to do.",
    )
    job.error = describe(error, attempt=job.attempt)
    if not waits:
        leases.end_attempt(session, job, "failed", now=now, error=job.error)
    events.move(session, job, "expired", [("job.expired", {"error": job.error})], now=now)


def give_up(session: Session, job_id: str, *, now: datetime) -> None:
    """Fail a job whose own transitions raise, by its row alone."""
    error = ErrorInfo(
        class_="internal",
        retryable=False,
        phase=None,
        message="the job could not be brought to its end",
        hint="This is a fault of the service; see the log of the reconciler.",
    )
    leases.fail(session, job_id, describe(error, attempt=0), now=now)


def wait(session: Session, job: Job, *, now: datetime, waits_for: str | None = None) -> None:
    """Release a locked job's attempt, uncharged, until its children have ended, or the equal job that it names."""
    _release(session, job, now=now)
    queued: events.NewEvent = ("job.queued", {"reason": "dependency", "waits_for": waits_for})
    events.move(session, job, "queued", [queued], now=now)
    job.wait_reason, job.waits_for = "dependency", waits_for


def wake(session: Session, job: Job, *, now: datetime) -> None:
    """Make a locked job that waited claimable again."""
    job.wait_reason, job.waits_for, job.queued_at = "capacity", None, now
    events.append(session, job, [("job.queued", {"reason": "dependency_ended"})], now=now)


def _release(session: Session, job: Job, *, now: datetime) -> None:
    """End an attempt that is not charged: the job may have one more."""
    leases.end_attempt(session, job, "released", now=now)
    job.max_attempts += 1


def apply_user_request(session: Session, job: Job, *, now: datetime) -> bool:
    """Apply what the user asked for, whatever else ended the attempt; True when something was asked."""
    if job.state == "cancelling":
        leases.end_attempt(session, job, "cancelled", now=now)
        events.move(session, job, "cancelled", [("job.cancelled", {})], now=now)
        return True
    if job.state == "pausing":
        _release(session, job, now=now)
        events.move(session, job, "paused", [("job.paused", {})], now=now)
        return True
    return False
