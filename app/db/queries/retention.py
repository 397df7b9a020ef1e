"""Delete what was kept long enough: each statement returns how many rows went."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.db.hook import HookDelivery
from app.db.job import Event, Job
from app.db.lifecycle import TERMINAL
from app.db.result import Artifact, LogLine
from app.db.tenancy import AuditEvent
from app.db.webhook import WebhookDelivery

MOST_JOBS = 1000
"""Whose rows one transaction deletes."""


def artifacts(session: Session, before: datetime) -> int:
    """Delete files of results of jobs that ended before a time."""
    return _of_ended_jobs(session, Artifact, before)


def events(session: Session, before: datetime) -> int:
    """Delete events of jobs that ended before a time."""
    return _of_ended_jobs(session, Event, before)


def log_lines(session: Session, before: datetime) -> int:
    """Delete log lines of jobs that ended before a time."""
    return _of_ended_jobs(session, LogLine, before)


def deliveries(session: Session, before: datetime) -> int:
    """Delete webhook messages and registry events that came before a time and are done with."""
    sent = WebhookDelivery.state != "pending", WebhookDelivery.created_at < before
    received = HookDelivery.state != "pending", HookDelivery.received_at < before
    return _deleted(session, WebhookDelivery, *sent) + _deleted(session, HookDelivery, *received)


def audit_events(session: Session, before: datetime) -> int:
    """Delete what was done before a time."""
    return _deleted(session, AuditEvent, AuditEvent.time < before)


def _of_ended_jobs(session: Session, table: type[Artifact | Event | LogLine], before: datetime) -> int:
    ended = select(Job.id).where(Job.state.in_(TERMINAL), Job.finished_at < before)
    jobs = list(session.scalars(select(table.job_id).where(table.job_id.in_(ended)).distinct().limit(MOST_JOBS)))
    return _deleted(session, table, table.job_id.in_(jobs)) if jobs else 0


def _deleted(session: Session, table: type, *where: ColumnElement[bool]) -> int:
    return int(session.execute(delete(table).where(*where)).rowcount or 0)  # type: ignore[attr-defined]
