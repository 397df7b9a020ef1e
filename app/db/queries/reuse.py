"""Statements about equal work: who did it, who does it, what of it is kept, and who waits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Select, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session, aliased, load_only

from app.db.base import Base
from app.db.job import QUEUED, Job
from app.db.result import Artifact, LayerRow, MetricPoint, PhaseRecord
from app.db.reuse import PhaseResult
from app.specs.lifecycle import TERMINAL

RESTING = (*sorted(TERMINAL), "paused")
"""States in which a job does nothing that another could wait for."""


def done(session: Session, project_id: str, work_hash: str, *, but: str) -> Job | None:
    """Return the newest job that succeeded with this work and still has its files."""
    return session.scalar(_done(project_id, work_hash, but))


def held_done(session: Session, project_id: str, work_hash: str, *, but: str) -> Job | None:
    """Return the same job with its row and its files' rows held: nobody deletes them before this transaction ends."""
    while (job := session.scalar(_done(project_id, work_hash, but))) is not None:
        # A statement that waited for a delete sees what is left after it: no job, or no file.
        row = select(Job.id).where(Job.id == job.id).with_for_update(read=True, key_share=True)
        files = select(Artifact.id).where(Artifact.job_id == job.id).with_for_update(read=True, key_share=True)
        if session.scalar(row) is not None and session.scalars(files).all():
            return job
    return None


def _done(project_id: str, work_hash: str, but: str) -> Select[Job]:
    files = select(Artifact.id).where(Artifact.job_id == Job.id).exists()
    query = select(Job).where(
        Job.project_id == project_id, Job.work_hash == work_hash, Job.state == "succeeded", Job.id != but, files
    )
    return query.order_by(Job.id.desc()).limit(1)


def in_flight(session: Session, project_id: str, work_hash: str, *, before: str) -> Job | None:
    """Return the oldest job that is about this work and older than ours: nobody waits in a ring."""
    query = select(Job).where(
        Job.project_id == project_id,
        Job.work_hash == work_hash,
        Job.state.not_in(RESTING),
        Job.waits_for.is_(None),
        Job.id < before,
    )
    return session.scalar(query.order_by(Job.id).limit(1))


def finished(session: Session, project_id: str, hashes: Collection[str]) -> set[str]:
    """Return which of some work a job of a project has done."""
    query = select(Job.work_hash).where(Job.project_id == project_id, Job.work_hash.in_(hashes))
    return set(session.scalars(query.where(Job.state == "succeeded").distinct()))


def leaders(session: Session, project_id: str, hashes: Collection[str]) -> dict[str, str]:
    """Return the oldest job in flight about each of some work."""
    query = select(Job.work_hash, func.min(Job.id)).where(Job.project_id == project_id, Job.work_hash.in_(hashes))
    in_hand = query.where(Job.state.not_in(RESTING), Job.waits_for.is_(None)).group_by(Job.work_hash)
    return {work_hash: job_id for work_hash, job_id in session.execute(in_hand) if work_hash}


def copy_rows(session: Session, table: type[Base], source_id: str, target_id: str, phases: Collection[str]) -> None:
    """Give a job the rows that another one wrote in some phases, unless it has its own."""
    columns = list(table.__table__.columns)
    mine, theirs = aliased(table), table.__table__.c
    others = [c.name for c in table.__table__.primary_key if c.name != "job_id"]
    there = select(mine.job_id).where(  # type: ignore[attr-defined]
        mine.job_id == target_id,  # type: ignore[attr-defined]
        *(getattr(mine, name) == theirs[name] for name in others),
    )
    query = select(*(literal(target_id) if c.name == "job_id" else c for c in columns)).where(
        theirs.job_id == source_id, ~there.exists()
    )
    if table in {PhaseRecord, MetricPoint}:
        query = query.where(theirs["name" if table is PhaseRecord else "phase"].in_(phases))
    session.execute(insert(table).from_select([c.name for c in columns], query))


def copy_history(session: Session, source_id: str, target_id: str, phases: Collection[str]) -> None:
    """Give a job the phases, the series and the matrices of another one that did the work."""
    for table in (PhaseRecord, MetricPoint, LayerRow):
        copy_rows(session, table, source_id, target_id, phases)


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
