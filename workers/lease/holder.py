"""Heartbeats the lease, reads requests to stop, and kills the child once the lease may have expired."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import structlog
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.queue import leases, workers
from app.db.session import Database
from app.platform import loops
from app.settings import Settings
from workers.processes.process import Child

READ_SECONDS, WATCH_SECONDS = 0.5, 0.1
Reason = Literal["cancelling", "pausing", "draining", "overtime"]

log = structlog.get_logger(__name__)


def running_seconds(settings: Settings, job: Job) -> float:
    """Return how long a job may run over all its attempts."""
    given = (job.request.get("limits") or {}).get("max_run_seconds")
    return min(settings.default_run_seconds if given is None else given, settings.max_run_seconds)


class LeaseLost(Exception):
    """The job belongs to somebody else, or may: write nothing."""


class Interrupted(Exception):
    """The attempt is to end before its work does."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class LeaseHolder:
    """Holds one job for one attempt; use as a context manager.

    Two threads: one talks to the database, the other only watches the time, so that a call that hangs cannot keep a
    child alive beyond its lease. The time left is counted from before each beat was sent, on our monotonic clock.
    """

    def __init__(
        self,
        database: Database,
        *,
        job_id: str,
        fence: int,
        worker_id: str,
        lease_seconds: float,
        draining: threading.Event,
        run_seconds_left: float | None,
    ) -> None:
        self._database = database
        self._job_id, self._fence, self._worker_id = job_id, fence, worker_id
        self._lease_seconds = lease_seconds
        self._held_seconds = lease_seconds - max(0.4, lease_seconds / 6)
        self._draining = draining
        self._run_until = time.monotonic() + run_seconds_left if run_seconds_left is not None else None
        self._beaten = time.monotonic()
        self._stop = threading.Event()
        self._lost = False
        self._releasing = False
        self._asked: Reason | None = None
        self._child: Child | None = None
        works = {
            "lease": partial(self._go_round, self._beat, min(READ_SECONDS, lease_seconds / 4)),
            "lease watch": partial(self._go_round, self._watch, WATCH_SECONDS),
        }
        self._threads = loops.Threads(self._stop, works)

    def __enter__(self) -> LeaseHolder:
        self._threads.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def guard(self, child: Child | None) -> None:
        """Set the child to kill when the lease is lost."""
        self._child = child

    def check(self) -> None:
        """Raise LeaseLost or Interrupted when the attempt must not go on."""
        if self._lost:
            raise LeaseLost
        if self._asked:
            raise Interrupted(self._asked)
        if self._draining.is_set():
            raise Interrupted("draining")
        if self._run_until is not None and time.monotonic() > self._run_until:
            raise Interrupted("overtime")

    @property
    def lost(self) -> bool:
        """Whether the lease was lost, or may have been."""
        return self._lost

    def releasing(self) -> None:
        """Note that the attempt releases the job: from now on a row of another holder is no error."""
        self._releasing = True

    def mark_lost(self) -> None:
        """Mark the lease lost, and kill the child at once."""
        self._lost = True
        if self._child is not None:
            self._child.kill()

    def _go_round(self, work: Callable[[threading.Event], None], seconds: float, stop: threading.Event) -> None:
        """Repeat the work at an interval until it sets its event, or the attempt ends."""
        over = threading.Event()

        def work_once() -> None:
            if stop.is_set():
                over.set()
            else:
                work(over)

        stop.wait(seconds)
        loops.run("lease", over, work_once, idle_seconds=seconds, longest_seconds=seconds, pause=stop.wait)

    def _beat(self, over: threading.Event) -> None:
        sent = time.monotonic()
        due = sent - self._beaten >= self._lease_seconds / 4
        state = self._renew() if due else self._read()
        if state is None:
            if not self._releasing:
                log.warning("the job is no longer ours", job_id=self._job_id, fence=self._fence)
                self.mark_lost()
            over.set()
            return
        if due:
            self._beaten = sent
        self._asked = state if state in {"cancelling", "pausing"} else None  # type: ignore[assignment]

    def _renew(self) -> str | None:
        with self._database.unit_of_work() as session:
            self._note_drain(session)
            return leases.heartbeat(
                session, self._job_id, self._fence, worker_id=self._worker_id, lease_seconds=self._lease_seconds
            )

    def _read(self) -> str | None:
        with self._database.reading() as session:
            self._note_drain(session)
            return leases.state_of(session, self._job_id, self._fence)

    def _note_drain(self, session: Session) -> None:
        if workers.drain_requested(session, self._worker_id):
            self._draining.set()

    def _watch(self, over: threading.Event) -> None:
        if time.monotonic() - self._beaten > self._held_seconds:
            log.warning("the lease may have passed: the child is ended", job_id=self._job_id, fence=self._fence)
            self.mark_lost()
            over.set()
