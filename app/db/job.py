"""Jobs and what happens to them: attempts, phases, events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    and_,
    column,
    literal_column,
    table,
    text,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CommitNumber, JsonColumn, OfProject, partial_index
from app.db.lifecycle import LEASED

PRIORITIES = {"low": 1, "normal": 0, "high": -1}
"""Days that are added to a job's queue rank."""
PRIORITY_MILLISECONDS = 86_400_000


def queue_rank(created_at: datetime, priority: int) -> int:
    """Return a job's rank in the queue: its creation in milliseconds, a day later or earlier by priority.

    So a priority ages by itself: `high` passes what is up to a day older, and nothing younger than a day passes `low`.
    """
    return int(created_at.timestamp() * 1000) + priority * PRIORITY_MILLISECONDS


def pending_until(request: dict[str, Any], since: datetime) -> datetime | None:
    """Return when a job that waits since then, queued or paused, expires; None without a limit."""
    seconds = (request.get("limits") or {}).get("max_pending_seconds")
    return None if seconds is None else since + timedelta(seconds=seconds)


def _default_queue_rank(context: DefaultExecutionContext) -> int:
    row = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return queue_rank(row["created_at"], row.get("priority") or 0)


def _pending_until(context: DefaultExecutionContext) -> datetime | None:
    row = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return pending_until(row["request"], row["queued_at"])


class Job(OfProject, Base):
    """One request to compress one model, and the truth about where it stands."""

    __tablename__ = "jobs"
    __table_args__ = (
        # In the order of the claim, which reads one entry of each project instead of sorting the queue.
        Index(
            "ix_jobs_claim",
            "worker_class",
            "project_id",
            "turn",
            "id",
            postgresql_where=text("state = 'queued' AND wait_reason IS DISTINCT FROM 'dependency'"),
            sqlite_where=text("state = 'queued' AND wait_reason IS NOT 'dependency'"),
        ),
        partial_index("ix_jobs_pending_until", "pending_until", where="pending_until IS NOT NULL"),
        partial_index("ix_jobs_lease", "lease_until", where="state IN ('running', 'pausing', 'cancelling')"),
        Index("ix_jobs_list", "project_id", "id"),
        # In the order in which equal work is looked for, lest every POST reads all jobs of its project.
        Index("ix_jobs_work", "project_id", "work_hash", "id"),
        # What a quota counts, and where a job stands.
        partial_index("ix_jobs_queued", "project_id", "worker_class", "turn", "id", where="state = 'queued'"),
        partial_index("ix_jobs_paused", "project_id", where="state = 'paused'"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    parent_id: Mapped[str | None] = mapped_column(index=True)
    """The job or sweep that made it."""
    name: Mapped[str]
    labels: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(default=0)
    turn: Mapped[int] = mapped_column(BigInteger, default=_default_queue_rank)
    """What the queue of a project is ordered by; projects take turns."""
    initiator: Mapped[dict[str, Any]]

    request: Mapped[dict[str, Any]]
    """The body as sent, defaults not filled in, and presets spelled out."""
    sent_spec: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    """The spec as sent, where it names a preset."""
    traceparent: Mapped[str | None]
    """W3C Trace Context of the request that made it, where traces are asked for."""
    resolved_spec: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    resolved_revision: Mapped[str | None]
    work_hash: Mapped[str | None]
    reused_from: Mapped[str | None]
    """The job that did the work."""
    engine_version: Mapped[str]
    model: Mapped[str]
    method: Mapped[str]
    """What lists filter by."""

    state: Mapped[str] = mapped_column(default="queued")
    phase: Mapped[str | None]
    phase_current: Mapped[int] = mapped_column(default=0)
    phase_total: Mapped[int] = mapped_column(default=0)
    phase_unit: Mapped[str] = mapped_column(default="")
    progress: Mapped[float] = mapped_column(default=0.0)
    wait_reason: Mapped[str | None]
    waits_for: Mapped[str | None]
    """The job in flight whose equal result it waits for; a parent waits for its children, which name it."""

    worker_class: Mapped[str] = mapped_column(default="default")
    attempt: Mapped[int] = mapped_column(default=0)
    """Claims so far."""
    max_attempts: Mapped[int] = mapped_column(default=20)
    """The bound over all causes, for a job that gets on a little and dies, again and again; releases raise it."""
    failures: Mapped[dict[str, Any]]
    """Error class -> failed attempts since the last checkpoint; budgets are per class."""
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    """Raised by every claim and every forced release: a writer with an older fence writes nothing."""
    lease_until: Mapped[datetime | None]
    worker_id: Mapped[str | None]
    not_before: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    checkpoints: Mapped[list[Any]]
    """StoredCheckpoint documents with the store key of each file; what a later attempt resumes from."""
    fetched_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The most that an attempt has fetched: more is progress, as a checkpoint is."""
    event_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    last_flush: Mapped[str | None]
    """Mark of the newest messages written: a worker that never learned of its commit does not write them twice."""

    error: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    gate: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    report: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    warnings: Mapped[list[Any]]

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """Since when it waits, queued or paused."""
    pending_until: Mapped[datetime | None] = mapped_column(default=_pending_until)
    """When it expires, while it waits."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    running_seconds: Mapped[float] = mapped_column(default=0.0)
    """Of finished attempts."""
    forgiven_seconds: Mapped[float] = mapped_column(default=0.0)
    """Of them, those before the newest retry: they do not count against max_run_seconds."""


# States written out: with a parameter a plan cannot know that a partial index holds every row it wants.
QUEUED = Job.state == literal_column("'queued'")
PAUSED = Job.state == literal_column("'paused'")
CLAIMABLE = and_(QUEUED, Job.wait_reason.is_distinct_from(literal_column("'dependency'")))
HELD = Job.state.in_([literal_column(f"'{state}'") for state in sorted(LEASED)])
"""Rows that a worker holds, or held until its lease ran out."""
CLAIMABLE_VIEW = table(
    "espalier_claimable",
    column("job_id", String),
    column("project_id", String),
    column("worker_class", String),
    column("place", BigInteger),
)
"""Jobs that are due, wait for no other job, and for which the quotas of their project leave room; made by a migration.

It is there for the trigger of whoever starts workers and for our own wake-up signals. `place` counts the jobs of a
project in a worker class. A project that may start two more jobs has two rows.
"""


class Attempt(OfProject, Base):
    """One claim of a job by one worker."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("job_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    fence: Mapped[int] = mapped_column(BigInteger)
    worker_id: Mapped[str]
    outcome: Mapped[str | None]
    """succeeded, failed, cancelled, lost, released; null while it runs."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    resumed_from: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    """{phase, name} of the newest checkpoint it started from."""
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Event(OfProject, Base):
    """One fact about a job, written in the transaction that made it true."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_feed", "commit_number", "job_id", "seq"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[str]
    type: Mapped[str]
    time: Mapped[datetime]
    attempt: Mapped[int]
    phase: Mapped[str | None]
    data: Mapped[dict[str, Any]]
    commit_number: Mapped[int] = mapped_column(BigInteger, default=CommitNumber())
    """Equal for what one transaction wrote, and rising: the order of the stream of all events."""


class Outbox(OfProject, Base):
    """A message that leaves after the commit: a wake-up signal, later a webhook."""

    __tablename__ = "outbox"
    __table_args__ = (partial_index("ix_outbox_pending", "id", where="sent_at IS NULL"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class IdempotencyKey(OfProject, Base):
    """The first answer to a POST with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("project_id", "method", "path", "key"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str]
    path: Mapped[str]
    key: Mapped[str]
    body_sha256: Mapped[str]
    resource_id: Mapped[str | None]
    created_at: Mapped[datetime]


class Worker(Base):
    """A worker process that was seen lately."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    worker_class: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of the device that it computes on."""
    engine_version: Mapped[str]
    job_id: Mapped[str | None]
    drain_requested_at: Mapped[datetime | None]
    device_lost_at: Mapped[datetime | None]
    """Since when its device does not answer; null while it is believed in."""
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]


class Heartbeat(Base):
    """When a process of which one leads was last seen to have done its work."""

    __tablename__ = "heartbeats"

    name: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
