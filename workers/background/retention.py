"""Delete rows past their retention period: results, events, log lines, deliveries, the audit log."""

from __future__ import annotations

from datetime import timedelta

import structlog

from app.db.queries import retention
from app.db.session import Database, clock
from app.settings import Settings

log = structlog.get_logger(__name__)


def forget(database: Database, settings: Settings) -> dict[str, int]:
    """Delete rows that are older than the settings keep them; return how many of each kind.

    The files of forgotten artifacts are named by nobody then, unless another job took them over, and are collected.
    """
    kept = {
        retention.artifacts: settings.keep_artifacts_days,
        retention.events: settings.keep_events_days,
        retention.log_lines: settings.keep_logs_days,
        retention.deliveries: settings.keep_deliveries_days,
        retention.audit_events: settings.keep_audit_days,
    }
    gone: dict[str, int] = {}
    for delete, days in kept.items():
        if days > 0:
            with database.unit_of_work() as session:
                gone[delete.__name__] = delete(session, clock(session) - timedelta(days=days))
    if any(gone.values()):
        log.info("what was kept long enough is forgotten", **gone)
    return gone
