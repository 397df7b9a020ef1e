"""Write a child's messages as rows and events: buffered, throttled, in one transaction guarded by the fence."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import events, results
from app.db.queries.queue import leases
from app.db.result import LogLine
from app.db.session import Database, clock
from app.platform.ids import new_id
from app.platform.loops import OUTAGE
from app.platform.tracing import Phases
from app.services.admission import source_cache
from espalier.messages import (
    Layer,
    Log,
    Metric,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    Warned,
)
from espalier.recipe.phases import Phase
from workers.lease.holder import LeaseLost
from workers.messages import Facts, RecordedMessage, Resolved, StoredInStore
from workers.supervisor import progress, result_rows

FLUSH_SECONDS = 0.4
PROGRESS_EVENT_SECONDS = 1.0
MAX_LOG_LINES = 5000
MAX_LOG_CHARS = 2000
MAX_WARNINGS = 200

log = structlog.get_logger(__name__)


class Recorder:
    """Takes messages of one attempt and writes them to the job's rows at least every half second."""

    def __init__(self, database: Database, job: Job, *, discard: Callable[[list[str]], None]) -> None:
        self._database = database
        self._discard = discard
        self._job_id, self._fence, self._spec = job.id, job.fence, job.request["spec"]
        self._waiting: list[RecordedMessage] = []
        self._flushed = 0.0
        self._progress_reported_at = 0.0
        self._repetition = ""
        self._log_lines = 0
        self._superseded: list[str] = []
        self._mark: str | None = None
        """Token of the newest write whose commit is uncertain, and how many messages it held."""
        self._marked = 0
        self.spans = Phases()
        self.phase: Phase | None = None
        """The phase that the attempt is in, for its errors."""

    def take(self, messages: Sequence[RecordedMessage]) -> None:
        """Buffer messages for the next flush."""
        for message in messages:
            if isinstance(message, PhaseStarted):
                self.phase = message.phase
                self.spans.begin(message.phase)
            if isinstance(message, Resolved):
                self._spec = message.spec
        self._waiting.extend(messages)

    def flush_if_due(self) -> None:
        """Flush buffered messages when the interval has passed; they stay buffered during an outage of the database."""
        if not self._waiting or time.monotonic() - self._flushed < FLUSH_SECONDS:
            return
        try:
            with self._database.unit_of_work() as session:
                self.write(session)
        except OUTAGE as error:
            log.warning("messages wait for the database", job_id=self._job_id, error=type(error).__name__)
        else:
            self.written()
        self._flushed = time.monotonic()

    def write(self, session: Session) -> Job:
        """Write buffered messages in the caller's transaction, which must commit; raises LeaseLost."""
        job = leases.held(session, self._job_id, self._fence)
        if job is None:
            raise LeaseLost
        if self._mark is not None and job.last_flush == self._mark:
            # The commit that we never learned of did happen.
            del self._waiting[: self._marked]
        self._mark = None
        if self._waiting:
            self._apply(session, job, self._waiting, clock(session))
            self._mark, self._marked = secrets.token_hex(8), len(self._waiting)
            job.last_flush = self._mark
        return job

    def written(self) -> None:
        """Drop what `write` has committed, and the store's files that no row names any more."""
        self._waiting.clear()
        self._mark = None
        if self._superseded:
            self._discard(self._superseded)

    def _apply(self, session: Session, job: Job, messages: Sequence[RecordedMessage], now: datetime) -> None:
        new_events: list[tuple[Phase | None, events.NewEvent]] = []
        self._superseded = []
        result_rows.write_metrics(session, job, [m for m in messages if isinstance(m, Metric)], now=now)
        layers = result_rows.write_layers(session, job, [m for m in messages if isinstance(m, Layer)])
        self._write_log(session, job, [line for m in messages if (line := _log_line(m))], now)
        last_progress = max((i for i, m in enumerate(messages) if isinstance(m, Progress)), default=-1)
        last_points = {m.name: i for i, m in enumerate(messages) if isinstance(m, Metric)}
        fetched = [m.current for m in messages if isinstance(m, Progress) and m.phase == "fetching"]
        progress.note_fetched(job, max(fetched, default=0))
        for index, message in enumerate(messages):
            match message:
                case PhaseStarted():
                    new_events.append((message.phase, self._start_phase(session, job, message, now)))
                case PhaseCompleted():
                    new_events.append((message.phase, self._complete_phase(session, job, message, now)))
                case Progress() if index == last_progress:
                    new_events += self._progress(job, message)
                case Metric() if last_points[message.name] == index:
                    new_events.append((message.phase, ("job.metric", _data(message))))
                case Layer() if message.name not in layers:
                    layers.add(message.name)
                    new_events.append((None, ("job.layer_completed", _data(message))))
                case StoredInStore():
                    self._superseded += _replaced(job, message)
                    new_events.append((message.phase, _record_checkpoint(job, message)))
                    result_rows.share_checkpoint(session, job, message, now=now)
                case Warned():
                    new_events += _warn(job, message)
                case Facts():
                    _resolve(job, message)
                    source_cache.remember(session, job.project_id, message.known, now=now)
                case _:
                    pass
        session.flush()
        for phase, group in groupby(new_events, key=lambda item: item[0]):
            events.append(session, job, [event for _, event in group], now=now, phase=phase)

    def _start_phase(self, session: Session, job: Job, message: PhaseStarted, now: datetime) -> events.NewEvent:
        results.begin_phase(session, job, message.phase, now=now)
        self._repetition = message.turn
        job.phase = message.phase
        job.phase_current, job.phase_total, job.phase_unit = 0, message.total, message.unit
        self._raise_progress(job, message.phase, 0, message.total)
        return "job.phase_started", _data(message)

    def _complete_phase(self, session: Session, job: Job, message: PhaseCompleted, now: datetime) -> events.NewEvent:
        results.end_phase(
            session,
            job,
            message.phase,
            now=now,
            seconds=message.seconds,
            peak_memory_bytes=message.peak_memory_bytes,
            perplexity=message.perplexity,
        )
        if job.phase == message.phase:
            job.phase_current = job.phase_total
        self._raise_progress(job, message.phase, 1, 1)
        return "job.phase_completed", _data(message)

    def _progress(self, job: Job, message: Progress) -> list[tuple[Phase | None, events.NewEvent]]:
        if job.phase == message.phase:
            job.phase_current, job.phase_total, job.phase_unit = message.current, message.total, message.unit
        self._raise_progress(job, message.phase, message.current, message.total)
        if time.monotonic() - self._progress_reported_at < PROGRESS_EVENT_SECONDS:
            return []
        self._progress_reported_at = time.monotonic()
        return [(message.phase, ("job.progress", {**_data(message), "progress": job.progress}))]

    def _raise_progress(self, job: Job, phase: Phase, current: int, total: int) -> None:
        """Raise the job's progress, never lower it, and leave the last step to success."""
        job.progress = max(
            job.progress, min(progress.overall(self._spec, phase, current, total, self._repetition), 0.999)
        )

    def _write_log(self, session: Session, job: Job, lines: Sequence[Log], now: datetime) -> None:
        room = MAX_LOG_LINES - self._log_lines
        self._log_lines += len(lines)
        if len(lines) > room >= 0:
            lines = [*lines[:room], Log(level="warning", text="further log lines of this attempt are not kept")]
        session.add_all(
            LogLine(
                id=new_id("log"),
                project_id=job.project_id,
                job_id=job.id,
                attempt=job.attempt,
                time=now,
                level=line.level,
                text=clean(line.text)[:MAX_LOG_CHARS],
            )
            for line in (lines if room >= 0 else [])
        )


def _log_line(message: RecordedMessage) -> Log | None:
    """Return the log line of a message: the child's own, or the start and end of a phase; None for other messages."""
    match message:
        case Log():
            return message
        case PhaseStarted():
            return Log(text=f"{message.phase} started")
        case PhaseCompleted():
            numbers = "".join(f", perplexity {name} {value:.2f}" for name, value in (message.perplexity or {}).items())
            return Log(text=f"{message.phase} done in {message.seconds:.1f} s{numbers}")
        case Warned():
            return Log(level="warning", text=message.text)
        case _:
            return None


def clean(text: str) -> str:
    """Drop the one character that Postgres cannot store."""
    return text.replace("\x00", "")


def _data(message: RecordedMessage) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude={"kind"})


def _replaced(job: Job, message: StoredInStore) -> list[str]:
    old = [c["key"] for c in job.checkpoints if (c["phase"], c["name"]) == (message.phase, message.name)]
    return [key for key in old if key != message.key]


def _record_checkpoint(job: Job, message: StoredInStore) -> events.NewEvent:
    """Append the checkpoint to the job's list, replacing an older one of its name; progress clears the failures."""
    others = [c for c in job.checkpoints if (c["phase"], c["name"]) != (message.phase, message.name)]
    job.checkpoints = [*others, message.model_dump(mode="json")]
    job.failures = {}
    return "job.checkpoint", {"phase": message.phase, "name": message.name, "bytes": message.bytes}


def _warn(job: Job, message: Warned) -> list[tuple[Phase | None, events.NewEvent]]:
    warning = {"code": message.code, "text": clean(message.text)}
    if warning in job.warnings or len(job.warnings) >= MAX_WARNINGS:
        return []
    job.warnings = [*job.warnings, warning]
    return [(None, ("job.warning", warning))]


def _resolve(job: Job, message: Facts) -> None:
    job.resolved_spec, job.resolved_revision, job.work_hash = message.spec, message.revision, message.work_hash
