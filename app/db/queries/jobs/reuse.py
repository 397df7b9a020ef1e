"""Statements about equal work: who did it, who does it, what of it is kept, and who waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, cast

from sqlalchemy import Insert, Select, Table, bindparam, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased, load_only

from app.db.base import Base
from app.db.job import QUEUED, Job
from app.db.lifecycle import TERMINAL
from app.db.result import Artifact, LayerRow, MetricPoint, PhaseRecord
from app.db.reuse import KnownContent, PhaseResult

RESTING = (*sorted(TERMINAL), "paused")
"""States in which a job does nothing that another could wait for."""


def done(session: Session, project_id: str, work_hash: str, *, but: str) -> Job | None:
    """Return the newest job that succeeded with this work and still has its files."""
    return session.scalar(_done(project_id, work_hash, but))


@dataclass(frozen=True)
class Held:
    """A job that succeeded and its files, held: nobody deletes them before the transaction ends."""

    job: Job
    files: list[Artifact]


def held_done(session: Session, project_id: str, work_hash: str, *, but: str) -> Held | None:
    """Return the same job, held."""
    while (job := session.scalar(_done(project_id, work_hash, but))) is not None:
        # A statement that waited for a delete sees what is left after it: no job, or no file.
        if results := held(session, [job.id]):
            return results[0]
    return None


def all_held_done(session: Session, project_id: str, hashes: Collection[str]) -> dict[str, Held]:
    """Return the newest job that did each of some work and still has its files, held; less what is deleted by now."""
    files = select(Artifact.id).where(Artifact.job_id == Job.id).exists()
    query = select(func.max(Job.id)).where(Job.project_id == project_id, Job.work_hash.in_(hashes))
    newest = session.scalars(query.where(Job.state == "succeeded", files).group_by(Job.work_hash)).all()
    return {result.job.work_hash: result for result in held(session, newest) if result.job.work_hash}


def held(session: Session, job_ids: Collection[str]) -> list[Held]:
    """Hold those of some jobs that are there, and their files; return what still has files."""
    jobs = select(Job).where(Job.id.in_(job_ids)).order_by(Job.id)
    files_of_jobs = select(Artifact).where(Artifact.job_id.in_(job_ids)).order_by(Artifact.id)
    rows = session.scalars(jobs.with_for_update(read=True, key_share=True)).all()
    files: dict[str, list[Artifact]] = {}
    for row in session.scalars(files_of_jobs.with_for_update(read=True, key_share=True)):
        files.setdefault(row.job_id, []).append(row)
    return [Held(job, files[job.id]) for job in rows if job.id in files]


def _done(project_id: str, work_hash: str, but: str) -> Select[Job]:
    files = select(Artifact.id).where(Artifact.job_id == Job.id).exists()
    query = select(Job).where(
        Job.project_id == project_id, Job.work_hash == work_hash, Job.state == "succeeded", Job.id != but, files
    )
    return query.order_by(Job.id.desc()).limit(1)


def in_flight(session: Session, project_id: str, work_hash: str, *, before: str) -> Job | None:
    """Return the oldest job that is about this work and older than ours: so waiting jobs form no cycle."""
    query = select(Job).where(
        Job.project_id == project_id,
        Job.work_hash == work_hash,
        Job.state.not_in(RESTING),
        Job.waits_for.is_(None),
        Job.id < before,
    )
    return session.scalar(query.order_by(Job.id).limit(1))


def leaders(session: Session, project_id: str, hashes: Collection[str]) -> dict[str, str]:
    """Return the oldest job in flight about each of some work."""
    query = select(Job.work_hash, func.min(Job.id)).where(Job.project_id == project_id, Job.work_hash.in_(hashes))
    in_hand = query.where(Job.state.not_in(RESTING), Job.waits_for.is_(None)).group_by(Job.work_hash)
    return {work_hash: job_id for work_hash, job_id in session.execute(in_hand) if work_hash}


def copy_history(session: Session, copies: Sequence[tuple[str, str]]) -> None:
    """Give jobs the phases, the series and the matrices of others that did their work: (from, to) of each."""
    for table in (PhaseRecord, MetricPoint, LayerRow):
        session.execute(_copy(table), [{"source": source, "target": target} for source, target in copies])


@cache
def _copy(table: type[Base]) -> Insert:
    """Insert the rows of a job under the id of another, unless that has its own."""
    theirs = cast(Table, table.__table__)
    mine = theirs.alias()
    others = [column.name for column in theirs.primary_key if column.name != "job_id"]
    there = select(mine.c.job_id).where(
        mine.c.job_id == bindparam("target"), *(mine.c[name] == theirs.c[name] for name in others)
    )
    columns = (bindparam("target") if c.name == "job_id" else c for c in theirs.c)
    query = select(*columns).where(theirs.c.job_id == bindparam("source"), ~there.exists())
    return insert(theirs).from_select([column.name for column in theirs.c], query)


def phase_results(session: Session, project_id: str, keys: Collection[str], *, now: datetime) -> Sequence[PhaseResult]:
    """Return what is stored under some keys, and note that it is used."""
    rows = session.scalars(
        update(PhaseResult)
        .where(PhaseResult.project_id == project_id, PhaseResult.key.in_(keys))
        .values(used_at=now)
        .returning(PhaseResult)
        .execution_options(synchronize_session=False)
    )
    return list(rows)


def phase_objects(session: Session, key: str) -> set[str]:
    """Return the objects of the store that hold what is stored under a key, by any project."""
    documents = session.scalars(select(PhaseResult.document).where(PhaseResult.key == key))
    return {str(document["key"]) for document in documents}


def known_content(session: Session, project_id: str, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what a project has seen behind some keys of sources and texts."""
    query = select(KnownContent).where(KnownContent.project_id == project_id, KnownContent.key.in_(keys))
    return {row.key: row.document for row in session.scalars(query)}


def evictable(session: Session, *, excess: int, unused_since: datetime) -> list[PhaseResult]:
    """Return the least recently used results that make up `excess` bytes, none of a job that still runs."""
    if excess <= 0:
        return []
    working = select(Job.id).where(Job.id == PhaseResult.job_id, Job.state.not_in(TERMINAL)).exists()
    query = select(PhaseResult).where(PhaseResult.used_at < unused_since, ~working).order_by(PhaseResult.used_at)
    chosen: list[PhaseResult] = []
    for row in session.scalars(query.execution_options(yield_per=200)):
        chosen.append(row)
        excess -= row.bytes
        if excess <= 0:
            break
    return chosen


def stored_bytes(session: Session) -> int:
    """Return the size of all phase results."""
    return int(session.scalar(select(func.coalesce(func.sum(PhaseResult.bytes), 0))) or 0)


def children(session: Session, parent_id: str, *, lock: bool = False, briefly: bool = False) -> list[Job]:
    """Return what a job or a sweep has made, in that order; `briefly`: their states and progress."""
    query = select(Job).where(Job.parent_id == parent_id).order_by(Job.id)
    if briefly:
        query = query.options(load_only(Job.id, Job.state, Job.progress, Job.reused_from, raiseload=True))
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return list(session.scalars(query))


def orphans() -> Select[Job]:
    """Select jobs that go on although the job that made them ended without success."""
    parent = aliased(Job)
    return (
        select(Job)
        .join(parent, parent.id == Job.parent_id)
        .where(parent.state.in_(TERMINAL - {"succeeded"}), Job.state.not_in((*TERMINAL, "cancelling")))
    )


def due() -> Select[Job]:
    """Select waiting jobs that wait for nothing any more: no unfinished child, no equal job at work."""
    child, leader = aliased(Job), aliased(Job)
    unfinished = select(child.id).where(child.parent_id == Job.id, child.state.not_in(TERMINAL)).exists()
    leading = select(leader.id).where(leader.id == Job.waits_for, leader.state.not_in(RESTING)).exists()
    return select(Job).where(
        QUEUED, Job.wait_reason == "dependency", ~unfinished, or_(Job.waits_for.is_(None), ~leading)
    )
