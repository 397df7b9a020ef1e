"""Statements about models: what was compressed, what came of it, and where it was published."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.db.job import Job
from app.db.publication import Publication


class ModelRow(NamedTuple):
    """A model, and how many jobs it had."""

    model: str
    jobs: int
    succeeded: int
    last_at: datetime


class ReportRow(NamedTuple):
    """A job that succeeded, and its report."""

    job_id: str
    name: str
    method: str
    created_at: datetime
    report: dict[str, Any]


class PublishedRow(NamedTuple):
    """A publication that is done, and the job whose result it is."""

    target: dict[str, Any]
    job_id: str
    job_name: str
    model: str


def models(session: Session, project_id: str, *, limit: int) -> list[ModelRow]:
    """Return the models of a project, latest used first."""
    succeeded, last = func.sum(case((Job.state == "succeeded", 1), else_=0)), func.max(Job.created_at)
    query = select(Job.model, func.count(), succeeded, last).where(Job.project_id == project_id)
    rows = session.execute(query.group_by(Job.model).order_by(last.desc()).limit(limit))
    return [ModelRow(*row) for row in rows]


def reports(session: Session, project_id: str, model: str, *, limit: int) -> list[ReportRow]:
    """Return the jobs that compressed a model and have a report, newest first."""
    query = select(Job.id, Job.name, Job.method, Job.created_at, Job.report).where(
        Job.project_id == project_id, Job.model == model, Job.state == "succeeded", Job.report.is_not(None)
    )
    return [ReportRow(*row) for row in session.execute(query.order_by(Job.id.desc()).limit(limit))]


def published(session: Session, project_id: str, *, limit: int) -> list[PublishedRow]:
    """Return what a project has published, newest first."""
    query = (
        select(Publication.target, Job.id, Job.name, Job.model)
        .join(Job, Job.id == Publication.job_id)
        .where(Publication.project_id == project_id, Publication.state == "succeeded")
    )
    return [PublishedRow(*row) for row in session.execute(query.order_by(Publication.id.desc()).limit(limit))]


def count_by_model(session: Session, project_id: str, models: Sequence[str]) -> dict[str, int]:
    """Return how many jobs began from each of some models; those with none are left out."""
    query = select(Job.model, func.count()).where(Job.project_id == project_id, Job.model.in_(models))
    return {model: count for model, count in session.execute(query.group_by(Job.model))}  # noqa: C416 - rows
