"""Heals what was missed: dead leases, unheard bells, the outbox, limits that ran out, files that no row names."""

from __future__ import annotations

import re
import time
from datetime import timedelta

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.job import Job, Outbox, Worker
from app.db.queries import events, leases
from app.db.result import Artifact
from app.db.session import Database, clock
from app.queue import Doorbell
from app.storage.base import ObjectStore
from workers.runs import endings
from workers.runs.failures import lost_worker

UNHEARD_SECONDS = 3.0
GARBAGE_AGE = timedelta(days=1)
"""Younger files may belong to an attempt that is about to commit them."""
COLLECT_SECONDS = 3600.0
_KEY = re.compile(r"projects/[^/]+/jobs/(?P<job>[^/]+)/(?:a\d+|checkpoints)/.+")

log = structlog.get_logger(__name__)


class Reconciler:
    """One sweep after the other, by whoever leads."""

    def __init__(self, database: Database, store: ObjectStore, doorbell: Doorbell) -> None:
        self._database, self._store, self._doorbell = database, store, doorbell
        self._rung: dict[str, float] = {}
        self._collected = time.monotonic()

    def sweep(self) -> None:
        """Heal everything once; each kind in its own short transactions."""
        self.recover()
        self.expire()
        self.deliver()
        self.ring_again()
        if time.monotonic() - self._collected > COLLECT_SECONDS:
            self._collected = time.monotonic()
            self.collect_garbage()

    def recover(self) -> int:
        """Take jobs from workers that stopped beating; return how many."""
        with self._database.unit_of_work() as session:
            now = clock(session)
            jobs = leases.abandoned(session, now)
            for job in jobs:
                log.warning("worker lost", job_id=job.id, worker_id=job.worker_id, attempt=job.attempt)
                job.fence += 1  # whatever the old holder still writes, it finds no row
                phase = job.phase
                endings.settle(session, job, lost_worker(phase), now=now)  # type: ignore[arg-type]
        return len(jobs)

    def expire(self) -> int:
        """End queued jobs that waited longer than they may; return how many."""
        limit = Job.request[("limits", "max_pending_seconds")].as_float()
        with self._database.unit_of_work() as session:
            now = clock(session)
            query = select(Job.id, Job.queued_at, limit).where(Job.state == "queued", limit.is_not(None))
            due = [row[0] for row in session.execute(query) if row[1] + timedelta(seconds=row[2]) < now]
            return sum(_expire_queued(session, job_id) for job_id in due)

    def deliver(self) -> int:
        """Send what the outbox holds: bells that the API had no time to ring; return how many."""
        with self._database.unit_of_work() as session:
            query = select(Outbox).where(Outbox.sent_at.is_(None)).order_by(Outbox.id).limit(500)
            rows = list(session.scalars(query.with_for_update(skip_locked=True)))
            now = clock(session) if rows else None
            for row in rows:
                row.sent_at = now
            classes = {str(row.payload.get("worker_class", "default")) for row in rows}
        # At most once is enough for a bell: the next sweep rings for whatever was not heard.
        for worker_class in classes:
            self._doorbell.ring(worker_class)
        return len(rows)

    def ring_again(self) -> None:
        """Ring for classes whose queued jobs nobody has taken, at most once in a few seconds."""
        with self._database.reading() as session:
            now = clock(session)
            waiting = leases.unheard(session, now, older_than_seconds=UNHEARD_SECONDS)
        for worker_class in waiting:
            if time.monotonic() - self._rung.get(worker_class, 0.0) > UNHEARD_SECONDS:
                self._rung[worker_class] = time.monotonic()
                self._doorbell.ring(worker_class)

    def collect_garbage(self) -> int:
        """Delete files of the store that no row names and that are older than a day; return how many."""
        removed = 0
        with self._database.reading() as session:
            now = clock(session)
        for stored in self._store.list("projects/"):
            match = _KEY.fullmatch(stored.key)
            if match and now - stored.modified_at > GARBAGE_AGE and not self._named(match["job"], stored.key):
                self._store.delete(stored.key)
                removed += 1
        with self._database.unit_of_work() as session:
            session.execute(delete(Worker).where(Worker.seen_at < now - GARBAGE_AGE))
            session.execute(delete(Outbox).where(Outbox.sent_at < now - GARBAGE_AGE))
        if removed:
            log.info("files that no row names removed", count=removed)
        return removed

    def _named(self, job_id: str, key: str) -> bool:
        with self._database.reading() as session:
            if session.scalar(select(Artifact.id).where(Artifact.job_id == job_id, Artifact.key == key)):
                return True
            job = session.get(Job, job_id)
            return job is not None and any(checkpoint["key"] == key for checkpoint in job.checkpoints)


def _expire_queued(session: Session, job_id: str) -> int:
    job = events.lock(session, job_id)
    if job is None or job.state != "queued":
        return 0
    endings.expire(session, job, now=clock(session))
    return 1
