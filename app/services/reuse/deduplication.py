"""Deduplication at POST: a request whose work is done, or in hand, where its sources are pinned and cached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.queries.jobs import reuse
from app.db.queries.jobs.reuse import Held
from app.errors import NoEqualResult

_AHEAD: Final = "equal work ahead"


@dataclass(frozen=True)
class _Ahead:
    """Equal work in the project, done or in hand, of all jobs that one transaction makes."""

    done: dict[str, Held]
    """Work -> the job that has done it."""
    leaders: dict[str, str]
    """Work in hand -> the oldest job that is about it."""

    def leader(self, work_hash: str, job_id: str) -> str | None:
        """Return the job that a new one would wait for; where there is none, the new one leads those after it."""
        first = self.leaders.setdefault(work_hash, job_id)
        return first if first != job_id else None


def look_ahead(session: Session, project_id: str, work_hashes: Iterable[str | None]) -> None:
    """Ask once about the work of many jobs that this transaction makes; None: not known."""
    hashes = {work_hash for work_hash in work_hashes if work_hash}
    done, leaders = reuse.all_held_done(session, project_id, hashes), reuse.leaders(session, project_id, hashes)
    session.info[_AHEAD] = _Ahead(done, leaders)


def place(session: Session, job: Job, reuse_mode: str) -> Held | None:
    """Let a new job wait for equal work in hand, and return the job that has done it.

    That job is held until this transaction ends. Raises NoEqualResult when it may do nothing else and there is none.
    """
    work, ahead = job.work_hash, session.info.get(_AHEAD)
    leader = ahead.leader(work, job.id) if ahead and work else None
    if reuse_mode == "never" or work is None:
        return None
    done = ahead.done.get(work) if ahead else reuse.held_done(session, job.project_id, work, but=job.id)
    if done is not None:
        return done
    if ahead is None and (first := reuse.in_flight(session, job.project_id, work, before=job.id)):
        leader = first.id
    if leader is not None:
        job.wait_reason, job.waits_for = "dependency", leader
    elif reuse_mode == "require":
        raise NoEqualResult
    return None
