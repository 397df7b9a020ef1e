"""What a run leaves behind, row by row; a row written twice replaces itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.base import Base
from app.db.job import Job
from app.db.result import LayerRow, PhaseRecord


def upsert(session: Session, table: type[Base], rows: Sequence[dict[str, Any]], *, keep: Sequence[str] = ()) -> None:
    """Insert rows, replacing those of the same primary key except their `keep` columns."""
    if not rows:
        return
    keys = [column.name for column in table.__table__.primary_key]
    # One statement may not touch a row twice: the last of equal keys wins.
    latest = list({tuple(row[key] for key in keys): row for row in rows}.values())
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    for start in range(0, len(latest), 500):
        statement = dialect.insert(table).values(latest[start : start + 500])
        fresh = {name: statement.excluded[name] for name in rows[0] if name not in {*keys, *keep}}
        session.execute(statement.on_conflict_do_update(index_elements=keys, set_=fresh))


def begin_phase(session: Session, job: Job, phase: str, *, now: datetime) -> None:
    """Open a phase's row; what earlier turns of the attempt took stays in it.

    A later attempt begins at nothing: it tells every turn again, with the seconds of work that it takes over.
    """
    row = _phase(session, job, phase) or PhaseRecord(job_id=job.id, project_id=job.project_id, name=phase)
    if row.attempt != job.attempt:
        row.attempt, row.seconds, row.peak_memory_bytes = job.attempt, None, None
    row.started_at, row.finished_at, row.perplexity = now, None, None
    session.add(row)


def end_phase(
    session: Session,
    job: Job,
    phase: str,
    *,
    now: datetime,
    seconds: float,
    peak_memory_bytes: int,
    perplexity: dict[str, float] | None,
) -> None:
    """Close a phase's row, if it was opened, with what this turn took on top of those before it."""
    row = _phase(session, job, phase)
    if row is not None:
        row.finished_at, row.perplexity = now, perplexity
        row.seconds = (row.seconds or 0.0) + seconds
        row.peak_memory_bytes = max(row.peak_memory_bytes or 0, peak_memory_bytes)


def _phase(session: Session, job: Job, phase: str) -> PhaseRecord | None:
    return session.scalar(select(PhaseRecord).where(PhaseRecord.job_id == job.id, PhaseRecord.name == phase))


def layer_names(session: Session, job_id: str, names: Sequence[str]) -> set[str]:
    """Return which of the matrices have a row already."""
    return set(session.scalars(select(LayerRow.name).where(LayerRow.job_id == job_id, LayerRow.name.in_(names))))


def next_layer_position(session: Session, job_id: str) -> int:
    """Return the position of the next new row."""
    last = session.scalar(select(func.max(LayerRow.position)).where(LayerRow.job_id == job_id))
    return 0 if last is None else last + 1
