"""Statements that read the events, metrics, log and artifacts of a job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.db.job import Attempt, Event, Job
from app.db.queries.pages import newest
from app.db.result import Artifact, LayerRow, LogLine, MetricPoint, PhaseRecord


class SeriesPoint(NamedTuple):
    """One point of a metric series."""

    name: str
    phase: str
    step: int
    value: float
    time: datetime


def events(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
    """Return events with a higher seq, in order."""
    query = select(Event).where(Event.job_id == job_id, Event.seq > after).order_by(Event.seq).limit(limit)
    return session.scalars(query).all()


def events_of(session: Session, job_id: str, types: Sequence[str], *, limit: int) -> Sequence[Event]:
    """Return the first events of some types, in order."""
    query = select(Event).where(Event.job_id == job_id, Event.type.in_(types)).order_by(Event.seq).limit(limit)
    return session.scalars(query).all()


def newest_events(session: Session, job_id: str, *, before: int | None, limit: int) -> Sequence[Event]:
    """Return events with a lower seq, newest first."""
    query = select(Event).where(Event.job_id == job_id)
    return newest(session, query, Event.seq, before=before, limit=limit)


def newest_log_lines(session: Session, job_id: str, *, before: str | None, limit: int) -> Sequence[LogLine]:
    """Return log lines before one, newest first."""
    query = select(LogLine).where(LogLine.job_id == job_id)
    return newest(session, query, LogLine.id, before=before, limit=limit)


def phases(session: Session, job_id: str) -> Sequence[PhaseRecord]:
    """Return the phases of a job, first begun first."""
    return session.scalars(
        select(PhaseRecord).where(PhaseRecord.job_id == job_id).order_by(PhaseRecord.started_at)
    ).all()


def attempt_errors(session: Session, job_id: str) -> Sequence[dict[str, Any]]:
    """Return the errors that attempts at a job ended with, in order."""
    query = select(Attempt.error).where(Attempt.job_id == job_id, Attempt.finished_at.is_not(None))
    return [error for error in session.scalars(query.order_by(Attempt.number)) if error is not None]


def children(session: Session, project_id: str, job_id: str, *, limit: int) -> Sequence[Job]:
    """Return the jobs that a job made, or whose work it did, oldest first."""
    made = or_(Job.parent_id == job_id, Job.reused_from == job_id)
    return session.scalars(select(Job).where(Job.project_id == project_id, made).order_by(Job.id).limit(limit)).all()


def log_lines(session: Session, job_id: str, *, after: str, limit: int) -> Sequence[LogLine]:
    """Return log lines after one, oldest first."""
    query = select(LogLine).where(LogLine.job_id == job_id, LogLine.id > after).order_by(LogLine.id).limit(limit)
    return session.scalars(query).all()


def layers(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[LayerRow]:
    """Return pruned matrices in the order in which they were done."""
    query = select(LayerRow).where(LayerRow.job_id == job_id, LayerRow.position > after)
    return session.scalars(query.order_by(LayerRow.position).limit(limit)).all()


def attempts(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[Attempt]:
    """Return attempts, first to last."""
    query = select(Attempt).where(Attempt.job_id == job_id, Attempt.number > after)
    return session.scalars(query.order_by(Attempt.number).limit(limit)).all()


def artifacts(session: Session, job_id: str, *, after: str, limit: int) -> Sequence[Artifact]:
    """Return the files of a job's result."""
    query = select(Artifact).where(Artifact.job_id == job_id, Artifact.id > after).order_by(Artifact.id).limit(limit)
    return session.scalars(query).all()


def files(session: Session, job_id: str, kinds: Sequence[str] = ()) -> list[Artifact]:
    """Return all files of a job's result, or those of some kinds."""
    query = select(Artifact).where(Artifact.job_id == job_id)
    return list(session.scalars(query.where(Artifact.kind.in_(kinds)) if kinds else query))


def named_keys(session: Session, keys: Collection[str]) -> set[str]:
    """Return which objects of the store are files of a result, of whichever job."""
    return set(session.scalars(select(Artifact.key).where(Artifact.key.in_(keys))))


def artifact(session: Session, project_id: str, artifact_id: str) -> Artifact | None:
    """Return one file of a project."""
    return session.scalar(select(Artifact).where(Artifact.id == artifact_id, Artifact.project_id == project_id))


def metric_points(session: Session, job_id: str, *, name: str | None, max_points: int) -> list[SeriesPoint]:
    """Return every series, thinned in the database to about `max_points` each; first and last points stay."""
    number = func.row_number().over(partition_by=MetricPoint.name, order_by=MetricPoint.step).label("number")
    count = func.count().over(partition_by=MetricPoint.name).label("count")
    series = select(MetricPoint, number, count).where(MetricPoint.job_id == job_id)
    if name is not None:
        series = series.where(MetricPoint.name == name)
    points = series.subquery()
    stride = (points.c.count + max_points - 1) // max_points
    query = (
        select(points.c.name, points.c.phase, points.c.step, points.c.value, points.c.time)
        .where(or_((points.c.number - 1) % stride == 0, points.c.number == points.c.count))
        .order_by(points.c.name, points.c.step)
    )
    return [SeriesPoint(*row) for row in session.execute(query)]
