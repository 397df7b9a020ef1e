"""Collect garbage (cleanup): files without a row, unfinished uploads, old idempotency keys, messages, worker rows."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

import structlog

from app.db.lifecycle import TERMINAL
from app.db.queries.jobs import jobs, reads, reuse
from app.db.queries.queue import outbox, workers
from app.db.queries.requests import idempotency
from app.db.session import Database, clock
from app.services.idempotency import KEPT
from app.storage.base import ObjectStore
from workers.background import stale

GARBAGE_AGE: Final = timedelta(days=1)
"""Younger files may belong to an attempt that is about to commit them."""
CHECKPOINT_AGE: Final = timedelta(days=7)
"""How long the checkpoints of a job that ended without success are kept for another try."""
PHASE_GRACE: Final = timedelta(hours=1)
"""A phase result that was used so lately may be on its way to a worker."""
_PHASE_KEY = re.compile(r"projects/[^/]+/phases/[^/]+/.+")
_KEY = re.compile(r"projects/[^/]+/jobs/(?P<job>[^/]+)/(?:a\d+|checkpoints)/.+")

log = structlog.get_logger(__name__)


def collect(database: Database, store: ObjectStore) -> int:
    """Delete old objects that no row names; return how many files of the store."""
    stale.abort_uploads(database, store)
    stale.end_ownerless(database)
    with database.unit_of_work() as session:
        now = clock(session)
        workers.forget(session, unseen_since=now - GARBAGE_AGE)
        outbox.forget(session, sent_before=now - GARBAGE_AGE)
        idempotency.forget(session, older_than=now - KEPT)
    ages = {stored.key: now - stored.modified_at for stored in store.list("projects/")}
    gone = stale.collect_ownerless(database, store, ages)
    old = [key for key, age in ages.items() if age > GARBAGE_AGE and key not in gone]
    removed = len(gone) + store.delete_unfinished(now - GARBAGE_AGE)
    removed += _collect_phases(database, store, old)
    removed += stale.collect_parts(database, store, old)
    for job_id, keys in groupby(filter(_KEY.fullmatch, old), key=_job_of):
        candidates = list(keys)
        named = _named(database, job_id, candidates, now)
        for key in candidates:
            if key not in named:
                store.delete(key)
                removed += 1
    if removed:
        log.info("files that no row names removed", count=removed)
    return removed


def evict_phase_results(database: Database, store: ObjectStore, *, max_bytes: int) -> int:
    """Delete the least recently used phase results until they are below their cap; return how many."""
    with database.unit_of_work() as session:
        excess = reuse.stored_bytes(session) - max_bytes
        rows = reuse.evictable(session, excess=excess, unused_since=clock(session) - PHASE_GRACE)
        keys = [str(row.document["key"]) for row in rows]
        for row in rows:
            session.delete(row)
    # The rows go first: a job that reads between the two finds no row, and computes.
    for key in keys:
        store.delete(key)
    if keys:
        log.info("phase results evicted", count=len(keys))
    return len(keys)


def _collect_phases(database: Database, store: ObjectStore, old: list[str]) -> int:
    """Delete phase checkpoints without a row; return how many files."""
    removed = 0
    for phase_key, keys in groupby(filter(_PHASE_KEY.fullmatch, old), key=lambda key: key.split("/")[3]):
        with database.reading() as session:
            named = reuse.phase_objects(session, phase_key)
        for key in keys:
            if key not in named:
                store.delete(key)
                removed += 1
    return removed


def _job_of(key: str) -> str:
    match = _KEY.fullmatch(key)
    assert match is not None
    return match["job"]


def _named(database: Database, job_id: str, keys: list[str], now: datetime) -> set[str]:
    """Return the keys that a job still needs, read once per job and not once per file."""
    with database.reading() as session:
        # Another job may point at the files of one that is gone.
        named = reads.named_keys(session, keys)
        job = jobs.find(session, job_id)
    if job is None:
        return named
    ended = job.state in TERMINAL and job.finished_at is not None and job.finished_at < now - CHECKPOINT_AGE
    return named if ended else named | {checkpoint["key"] for checkpoint in job.checkpoints}
