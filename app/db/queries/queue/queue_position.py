"""Queue positions of new jobs: exact while the queue is short, and a count of a moment ago where it is long."""

from __future__ import annotations

import threading
import time

from sqlalchemy import and_, func, literal, or_, select
from sqlalchemy.orm import Session

from app.db.job import QUEUED, Job, queue_rank
from app.db.queries.jobs import jobs

EXACT = 500
"""Places that are counted one by one; farther back, the count of a moment ago serves."""
MOMENT_SECONDS = 1.0
_Key = tuple[str, str, int]
_far: dict[_Key, tuple[float, int]] = {}
_MOST_FAR = 10_000
_lock = threading.Lock()


def of_new(session: Session, job: Job) -> int:
    """Return the queue position of a job that this transaction makes, counting those that it made before."""
    before: dict[_Key, int] = session.info.setdefault("new places", {})
    key = (job.project_id, job.worker_class, job.priority)
    if key not in before:
        rank = queue_rank(job.created_at, job.priority)
        ahead = or_(Job.turn < rank, and_(Job.turn == rank, Job.id < job.id))
        mine = and_(QUEUED, Job.project_id == job.project_id, Job.worker_class == job.worker_class)
        near = select(literal(1)).where(mine, ahead).limit(EXACT).subquery()
        with session.no_autoflush:
            counted = session.scalar(select(func.count()).select_from(near)) or 0
            before[key] = counted if counted < EXACT else _counted(session, job, key)
    before[key] += 1
    return before[key]


def _counted(session: Session, job: Job, key: _Key) -> int:
    with _lock:
        at, count = _far.get(key, (float("-inf"), 0))
        if time.monotonic() - at > MOMENT_SECONDS:
            job.turn = queue_rank(job.created_at, job.priority)
            count = jobs.queue_position(session, job) - 1
            if len(_far) > _MOST_FAR:
                _far.clear()
            _far[key] = (time.monotonic(), count)
    return count
