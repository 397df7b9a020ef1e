"""What is kept for so long and no longer: files of results, events, log lines, deliveries, the audit log."""

from __future__ import annotations

from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.db.hook import HookDelivery
from app.db.job import Event, Job
from app.db.lifecycle import TERMINAL
from app.db.result import Artifact, LogLine
from app.db.session import Database, clock
from app.db.tenancy import AuditEvent
from app.db.webhook import WebhookDelivery
from app.settings import Settings

BATCH = 1000
"""Jobs of one transaction."""

log = structlog.get_logger(__name__)


def forget(database: Database, settings: Settings) -> dict[str, int]:
    """Delete rows that are older than the settings keep them; return how many of each kind.

    The files of forgotten artifacts are named by nobody then, unless another job took them over, and are collected.
    """
    kept = {
        "artifacts": settings.keep_artifacts_days, "events": settings.keep_events_days,
        "log_lines": settings.keep_logs_days, "deliveries": settings.keep_deliveries_days,
        "audit_events": settings.keep_audit_days,
    }  # fmt: skip
    gone = {name: _forget(database, name, days) for name, days in kept.items() if days > 0}
    if any(gone.values()):
        log.info("what was kept long enough is forgotten", **gone)
    return gone


def _forget(database: Database, name: str, days: float) -> int:
    removed = 0
    with database.unit_of_work() as session:
        before = clock(session) - timedelta(days=days)
        if name == "deliveries":
            done = WebhookDelivery.state != "pending"
            came = HookDelivery.state != "pending", HookDelivery.received_at < before
            return _deleted(session, WebhookDelivery, done, WebhookDelivery.created_at < before) + _deleted(
                session, HookDelivery, *came
            )
        if name == "audit_events":
            return _deleted(session, AuditEvent, AuditEvent.time < before)
        table = {"artifacts": Artifact, "events": Event, "log_lines": LogLine}[name]
        over = select(Job.id).where(Job.state.in_(TERMINAL), Job.finished_at < before)
        with_rows = select(table.job_id).where(table.job_id.in_(over)).distinct().limit(BATCH)  # type: ignore[attr-defined]
        jobs = list(session.scalars(with_rows))
        if jobs:
            removed = _deleted(session, table, table.job_id.in_(jobs))  # type: ignore[attr-defined]
    return removed


def _deleted(session: Session, table: type, *where: ColumnElement[bool]) -> int:
    return int(session.execute(delete(table).where(*where)).rowcount or 0)  # type: ignore[attr-defined]
