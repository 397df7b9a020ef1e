"""The timeline of one job for a page: phases over all attempts, relatives, and events and log lines, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.db.job import Attempt, Event, Job
from app.db.queries.jobs import jobs, reads
from app.db.result import LogLine, PhaseRecord
from app.db.session import Database
from app.errors import NotFound

MOST = 500
"""Rows of one kind on one page."""
_TURNS = ("job.phase_started", "job.phase_completed", "job.attempt_failed", "job.queued", "job.paused")


@dataclass(frozen=True)
class PhaseInterval:
    """One phase in one attempt; the end is None while it lasts."""

    attempt: int
    phase: str
    start: datetime
    end: datetime | None
    done: bool
    """False for a phase that an attempt did not get to the end of."""


@dataclass(frozen=True)
class History:
    """The history of a job, and its relatives."""

    intervals: list[PhaseInterval]
    phases: Sequence[PhaseRecord]
    attempts: Sequence[Attempt]
    children: Sequence[Job]
    """The jobs that it made, and those that took over its result."""

    def phase_of(self, interval: PhaseInterval) -> PhaseRecord | None:
        """Return what was written down of an interval that ended."""
        key = interval.phase, interval.attempt
        return next((phase for phase in self.phases if (phase.name, phase.attempt) == key), None)


def read(database: Database, project_id: str, job_id: str) -> History:
    """Return the history of a job; raises NotFound."""
    with database.reading() as session:
        if jobs.get(session, project_id, job_id) is None:
            raise NotFound
        turns = reads.events_of(session, job_id, _TURNS, limit=MOST)
        attempts = reads.attempts(session, job_id, after=0, limit=MOST)
        return History(
            _intervals(turns, attempts),
            reads.phases(session, job_id),
            attempts,
            reads.children(session, project_id, job_id, limit=MOST),
        )


def events(database: Database, project_id: str, job_id: str, *, before: int | None, limit: int) -> Sequence[Event]:
    """Return events of a job, newest first; raises NotFound."""
    with database.reading() as session:
        if jobs.get(session, project_id, job_id) is None:
            raise NotFound
        return reads.newest_events(session, job_id, before=before, limit=limit)


def log(database: Database, project_id: str, job_id: str, *, before: str | None, limit: int) -> Sequence[LogLine]:
    """Return log lines of a job, newest first; raises NotFound."""
    with database.reading() as session:
        if jobs.get(session, project_id, job_id) is None:
            raise NotFound
        return reads.newest_log_lines(session, job_id, before=before, limit=limit)


def _intervals(turns: Sequence[Event], attempts: Sequence[Attempt]) -> list[PhaseInterval]:
    ends = {attempt.number: attempt.finished_at for attempt in attempts}
    finished: list[PhaseInterval] = []
    began: dict[tuple[int, str], datetime] = {}
    for event in turns:
        key = event.attempt, event.phase or ""
        if event.type == "job.phase_started":
            began[key] = event.time
        elif event.type == "job.phase_completed" and key in began:
            finished.append(PhaseInterval(*key, began.pop(key), event.time, done=True))
    cut = [PhaseInterval(*key, start, _end(ends, key[0], start), done=False) for key, start in began.items()]
    return sorted([*finished, *cut], key=lambda interval: (interval.attempt, interval.start))


def _end(ends: dict[int, datetime | None], attempt: int, start: datetime) -> datetime | None:
    end = ends.get(attempt)
    return None if end is None else max(end, start)
