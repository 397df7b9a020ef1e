"""Queries of the event streams: cursors of jobs, their new events, and all new events in the order of their commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Text, and_, cast, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from app.db.job import Event, Job
from app.db.lifecycle import TERMINAL
from app.db.queries.jobs import reads

_JOBS_AT_ONCE = 200
"""Jobs per statement."""


class JobCursor(NamedTuple):
    """Where a job stands: its state and its newest seq."""

    state: str
    seq: int

    def is_over(self, seq: int) -> bool:
        """Tell whether nothing comes any more beyond a seq."""
        return self.state in TERMINAL and seq >= self.seq


class Position(NamedTuple):
    """A place in the order of all events; what comes after it is greater."""

    commit_number: int
    job_id: str
    seq: int


def head(session: Session, project_id: str, job_id: str) -> JobCursor | None:
    """Return where a job of a project stands."""
    row = session.execute(
        select(Job.state, Job.event_seq).where(Job.id == job_id, Job.project_id == project_id)
    ).one_or_none()
    return JobCursor(*row) if row else None


def history(
    session: Session, *, project_id: str, job_id: str, after: int, limit: int
) -> tuple[JobCursor | None, list[Event]]:
    """Return where a job of a project stands, and its first events beyond a seq."""
    return head(session, project_id, job_id), list(reads.events(session, job_id, after=after, limit=limit))


def heads(session: Session, job_ids: Collection[str]) -> dict[str, JobCursor]:
    """Return where jobs stand; one that is deleted is left out."""
    rows = session.execute(select(Job.id, Job.state, Job.event_seq).where(Job.id.in_(job_ids)))
    return {row.id: JobCursor(row.state, row.event_seq) for row in rows}


def new_events(session: Session, after: Mapping[str, int]) -> list[Event]:
    """Return the events of jobs beyond a seq of each, in order."""
    wanted = or_(*(and_(Event.job_id == job_id, Event.seq > seq) for job_id, seq in after.items()))
    return list(session.scalars(select(Event).where(wanted).order_by(Event.job_id, Event.seq)))


def new_events_beyond(
    session: Session, sent: Mapping[str, int | None]
) -> tuple[dict[str, JobCursor], dict[str, list[Event]]]:
    """Return where jobs stand, and the events of those that went on beyond what their watchers were sent."""
    stand = heads(session, sent)
    moved = {
        job_id: seq for job_id, seq in sent.items() if seq is not None and seq < stand.get(job_id, JobCursor("", 0)).seq
    }
    events: dict[str, list[Event]] = {}
    names = list(moved)
    for start in range(0, len(names), _JOBS_AT_ONCE):
        for event in new_events(session, {name: moved[name] for name in names[start : start + _JOBS_AT_ONCE]}):
            events.setdefault(event.job_id, []).append(event)
    return stand, events


def now(session: Session) -> Position:
    """Return the position before all events still to come."""
    return Position(session.scalar(select(_horizon(session))) or 0, "", 0)


def all_new_events(
    session: Session, position: Position, *, project_id: str | None = None, limit: int
) -> Sequence[Event]:
    """Return events after a position, of one project or of all; never one that a late commit could still precede."""
    place = tuple_(Event.commit_number, Event.job_id, Event.seq)
    query = select(Event).where(place > tuple_(*map(literal, position)))
    if session.get_bind().dialect.name == "postgresql":
        query = query.where(Event.commit_number < _horizon(session))
    if project_id is not None:
        query = query.where(Event.project_id == project_id)
    return session.scalars(query.order_by(Event.commit_number, Event.job_id, Event.seq).limit(limit)).all()


def position_of(event: Event) -> Position:
    """Return the position of an event."""
    return Position(event.commit_number, event.job_id, event.seq)


def _horizon(session: Session):  # type: ignore[no-untyped-def]  # noqa: ANN202 - an SQL expression
    """Return the smallest commit number that a transaction in progress may still have."""
    if session.get_bind().dialect.name == "postgresql":
        return cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
    return select(func.coalesce(func.max(Event.commit_number), 0) + 1).scalar_subquery()
