"""Heals what was missed: dead leases, unheard signals, the outbox, limits that ran out, files that no row names."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import structlog
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import reuse
from app.db.queries.queue import fair_share, leases, measures, outbox
from app.db.queries.queue.leases import JobQuery
from app.db.queries.tenancy import quotas
from app.db.session import Database, clock
from app.platform import loops
from app.queue import WorkNotifier
from app.services.jobs import children
from app.settings import Settings
from app.storage.base import ObjectStore
from workers.background import garbage, retention
from workers.lease import transitions
from workers.lease.retries import lost_worker

UNHEARD_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 300.0
"""Between signals that nobody hears: without a worker they would fill the broker."""
MOST_AT_ONCE = 100
"""Jobs that one transaction heals."""
_MOST_SENT_AT_ONCE = 500
FIRST_COLLECT_SECONDS, COLLECT_SECONDS = 60.0, 3600.0
TELL_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Reconciler:
    """Sweeps over the database, run by the leader only."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        notifier: WorkNotifier,
        *,
        phase_store_max_bytes: int = 2**62,
        settings: Settings | None = None,
    ) -> None:
        self._database, self._store, self._notifier = database, store, notifier
        self._phase_store_max_bytes = phase_store_max_bytes
        self._settings = settings
        """How long things are kept; None: for ever."""
        self._signals: dict[str, tuple[float, float]] = {}
        """Worker class -> when it is notified next, and the pause that follows."""
        self._capped: list[str] | None = None
        """Projects whose queued jobs are marked as waiting for their quota; None before the first look."""
        self.postponed: dict[str, tuple[int, float]] = {}
        """Job that could not be healed -> how often, and when it is tried again."""
        self._collect_at = time.monotonic() + FIRST_COLLECT_SECONDS
        self._tell_at = 0.0

    def sweep(self) -> None:
        """Heal everything once; each kind in its own short transactions, and whatever the others raise."""
        steps: list[Callable[[], object]] = [
            self.recover,
            self.end_orphans,
            self.wake,
            self.expire,
            self.mark_quotas,
            self.deliver,
            self.ring_again,
        ]
        if time.monotonic() > self._collect_at:
            self._collect_at = time.monotonic() + COLLECT_SECONDS
            steps.append(self.collect_garbage)
        loops.each("reconciler", [*steps, self.tell], lambda step: step(), spoiled=lambda _: None)

    def tell(self) -> None:
        """Record the sweep's time every few seconds, so that monitoring sees when no process leads."""
        if time.monotonic() > self._tell_at:
            self._tell_at = time.monotonic() + TELL_SECONDS
            with self._database.unit_of_work() as session:
                measures.note_sweep(session)

    def recover(self) -> int:
        """Recover jobs of workers that stopped sending heartbeats; return how many."""

        def take(session: Session, job: Job, now: datetime) -> None:
            log.warning("worker lost", job_id=job.id, worker_id=job.worker_id, attempt=job.attempt)
            job.fence += 1  # whatever the old holder still writes, it finds no row
            phase = job.phase
            transitions.finish_with_error(session, job, lost_worker(phase), now=now)  # type: ignore[arg-type]

        return len(self._heal(leases.abandoned, take))

    def wake(self) -> int:
        """Make jobs claimable whose dependencies have ended; return how many."""
        woken = self._heal(lambda _now: reuse.due(), lambda session, job, now: transitions.wake(session, job, now=now))
        for worker_class in {job.worker_class for job in woken}:
            self._notifier.notify(worker_class)
        return len(woken)

    def end_orphans(self) -> int:
        """Cancel the children of jobs that ended without success; return how many."""
        ended = self._heal(
            lambda _now: reuse.orphans(), lambda session, job, now: children.cancel(session, job, now=now)
        )
        return len(ended)

    def expire(self) -> int:
        """End jobs that waited longer than they may, queued or paused; return how many."""
        return len(self._heal(leases.overdue, lambda session, job, now: transitions.expire(session, job, now=now)))

    def _heal(self, find: Callable[[datetime], JobQuery], heal: Callable[[Session, Job, datetime], None]) -> list[Job]:
        """Find and lock jobs, and heal them in one transaction; one by one when that breaks on one of them."""
        try:
            with self._database.unit_of_work() as session:
                now = clock(session)
                jobs = self._locked(session, find(now))
                for job in jobs:
                    heal(session, job, now)
        except BaseException as error:  # noqa: BLE001 - one job's fault is not the others'
            loops.note("reconciler", error)
            return self._heal_alone(find, heal)
        return jobs

    def _heal_alone(
        self, find: Callable[[datetime], JobQuery], heal: Callable[[Session, Job, datetime], None]
    ) -> list[Job]:
        healed: list[Job] = []

        def alone(job_id: str) -> None:
            with self._database.unit_of_work() as session:
                now = clock(session)
                if (job := leases.lock_still(session, find(now), job_id)) is not None:
                    heal(session, job, now)
                    healed.append(job)

        with self._database.unit_of_work() as session:
            ids = [job.id for job in self._locked(session, find(clock(session)))]
        loops.each("reconciler", ids, alone, spoiled=self._postpone)
        return healed

    def _locked(self, session: Session, wanted: JobQuery) -> list[Job]:
        """Lock the oldest of those that a query finds and nobody has postponed."""
        later = [job_id for job_id, (_, until) in self.postponed.items() if until > time.monotonic()]
        return leases.lock_oldest(session, wanted, limit=MOST_AT_ONCE, but=later)

    def _postpone(self, job_id: str) -> None:
        """Postpone a job whose healing raised; after the last attempt it fails with an internal error."""
        times = self.postponed.get(job_id, (0, 0.0))[0] + 1
        self.postponed[job_id] = times, time.monotonic() + loops.delay_seconds(times)
        if times >= loops.MOST_ATTEMPTS:
            with self._database.unit_of_work() as session:
                transitions.give_up(session, job_id, now=clock(session))
            del self.postponed[job_id]

    def mark_quotas(self) -> None:
        """Mark queued jobs that wait for their project's quota, and unmark the others."""
        with self._database.reading() as session:
            now = clock(session)
            capped, rested = quotas.capped(session, now), quotas.has_rested(session, now)
        if capped != self._capped or capped or rested:
            with self._database.unit_of_work() as session:
                quotas.mark_waiting(session, capped, now)
            self._capped = capped

    def deliver(self) -> int:
        """Send what the outbox holds: wake-up signals that the API had no time to send; return how many."""
        with self._database.unit_of_work() as session:
            rows = outbox.lock_unsent(session, limit=_MOST_SENT_AT_ONCE)
            now = clock(session) if rows else None
            for row in rows:
                row.sent_at = now
            classes = {str(row.payload.get("worker_class", "default")) for row in rows}
        # At most once is enough for a signal: the next sweep repeats whatever was not heard.
        loops.each("reconciler", classes, self._notifier.notify, spoiled=lambda _: None)
        return len(rows)

    def ring_again(self) -> None:
        """Notify classes whose queued jobs nobody has taken, with growing pauses."""
        with self._database.reading() as session:
            now = clock(session)
            waiting = leases.unheard(session, now, older_than_seconds=UNHEARD_SECONDS)
        now_seconds = time.monotonic()
        self._signals = {name: signal for name, signal in self._signals.items() if name in waiting}
        for worker_class in waiting:
            due, pause = self._signals.get(worker_class, (0.0, UNHEARD_SECONDS))
            if now_seconds > due:
                self._signals[worker_class] = (now_seconds + pause, min(pause * 2, LONGEST_PAUSE_SECONDS))
                self._notifier.notify(worker_class)

    def collect_garbage(self) -> int:
        """Delete what nobody needs any more; return how many files of the store."""
        with self._database.unit_of_work() as session:
            fair_share.forget(session, now=clock(session))
        if self._settings is not None:
            retention.forget(self._database, self._settings)
        evicted = garbage.evict_phase_results(self._database, self._store, max_bytes=self._phase_store_max_bytes)
        return evicted + garbage.collect(self._database, self._store)
