"""What users ask about jobs; another project's job is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from app.db.job import Attempt, Event, Job
from app.db.lifecycle import LEASED
from app.db.queries.jobs import event_stream, reads
from app.db.queries.jobs import jobs as job_queries
from app.db.queries.jobs.event_stream import JobCursor
from app.db.queries.jobs.jobs import Filters
from app.db.result import Artifact, LayerRow, LogLine
from app.db.session import Database, clock
from app.errors import NotFinished, NotFound


@dataclass(frozen=True)
class JobReading:
    """A job and what its row alone does not tell."""

    job: Job
    now: datetime
    attempt_started_at: datetime | None
    """Of the attempt that runs now."""
    queue_position: int | None

    @property
    def durations(self) -> dict[str, float]:
        """Seconds so far: pending (back-offs included), running (over all attempts), total (since creation)."""
        total = ((self.job.finished_at or self.now) - self.job.created_at).total_seconds()
        open_attempt = (self.now - self.attempt_started_at).total_seconds() if self.attempt_started_at else 0.0
        running = self.job.running_seconds + open_attempt
        seconds = {"pending": total - running, "running": running, "total": total}
        return {name: round(max(value, 0.0), 3) for name, value in seconds.items()}


@dataclass(frozen=True)
class Series:
    """One metric over the steps of a phase."""

    name: str
    phase: str
    points: list[reads.SeriesPoint]


def job(database: Database, project_id: str, job_id: str) -> JobReading:
    """Return a job; raises NotFound."""
    with database.reading() as session:
        row = _require(session, project_id, job_id)
        place = job_queries.queue_position(session, row) if row.state == "queued" else None
        return _complete(session, [row], {row.id: place} if place else {})[0]


def jobs(
    database: Database, project_id: str, filters: Filters, *, before: str | None, limit: int
) -> Sequence[JobReading]:
    """Return a page of jobs, newest first."""
    with database.reading() as session:
        rows = job_queries.page(session, project_id, filters, before=before, limit=limit)
        queued = [row.id for row in rows if row.state == "queued"]
        return _complete(session, rows, job_queries.queue_positions(session, project_id, queued) if queued else {})


def _complete(session: Session, rows: Sequence[Job], positions: dict[str, int]) -> list[JobReading]:
    running = [row.id for row in rows if row.state in LEASED]
    starts = job_queries.open_attempts(session, running) if running else {}
    now = clock(session)
    return [JobReading(row, now, starts.get(row.id), positions.get(row.id)) for row in rows]


def _require(session: Session, project_id: str, job_id: str) -> Job:
    row = job_queries.get(session, project_id, job_id)
    if row is None:
        raise NotFound
    return row


def head(database: Database, project_id: str, job_id: str) -> JobCursor:
    """Return a job's state and newest seq; raises NotFound."""
    with database.reading() as session:
        row = event_stream.head(session, project_id, job_id)
    if row is None:
        raise NotFound
    return row


def events(database: Database, project_id: str, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
    """Return events of a job with a higher seq."""
    with database.reading() as session:
        return reads.events(session, _require(session, project_id, job_id).id, after=after, limit=limit)


def logs(database: Database, project_id: str, job_id: str, *, after: str, limit: int) -> Sequence[LogLine]:
    """Return log lines of a job."""
    with database.reading() as session:
        return reads.log_lines(session, _require(session, project_id, job_id).id, after=after, limit=limit)


def layers(database: Database, project_id: str, job_id: str, *, after: int, limit: int) -> Sequence[LayerRow]:
    """Return the pruned matrices of a job."""
    with database.reading() as session:
        return reads.layers(session, _require(session, project_id, job_id).id, after=after, limit=limit)


def attempts(database: Database, project_id: str, job_id: str, *, after: int, limit: int) -> Sequence[Attempt]:
    """Return the attempts of a job."""
    with database.reading() as session:
        return reads.attempts(session, _require(session, project_id, job_id).id, after=after, limit=limit)


def metrics(database: Database, project_id: str, job_id: str, *, name: str | None, max_points: int) -> Sequence[Series]:
    """Return the metric series of a job, thinned."""
    with database.reading() as session:
        row = _require(session, project_id, job_id)
        points = reads.metric_points(session, row.id, name=name, max_points=max_points)
    grouped = groupby(points, key=lambda point: point.name)
    series = [(name, list(group)) for name, group in grouped]
    return [Series(name, group[-1].phase, group) for name, group in series]


def report(database: Database, project_id: str, job_id: str) -> dict[str, Any]:
    """Return the report of a succeeded job; raises NotFinished before."""
    with database.reading() as session:
        row = _require(session, project_id, job_id)
    if row.state != "succeeded" or row.report is None:
        raise NotFinished(f"The job is {row.state}; only a succeeded job has a report.")
    return row.report


def artifacts(database: Database, project_id: str, job_id: str, *, after: str, limit: int) -> Sequence[Artifact]:
    """Return the files of a job's result."""
    with database.reading() as session:
        return reads.artifacts(session, _require(session, project_id, job_id).id, after=after, limit=limit)
