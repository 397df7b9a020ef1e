"""Messages that must leave after a commit: written in its transaction, sent by the reconciler."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from app.db.job import Job, Outbox
from app.db.session import add_rows
from app.platform.ids import new_id


def add_wake_up_signal(session: Session, job: Job, *, now: datetime) -> None:
    """Write a wake-up signal for the workers of a job's class, should the one after the commit be lost."""
    row = {
        "id": new_id("out"),
        "project_id": job.project_id,
        "topic": "bell",
        "created_at": now,
        "sent_at": None,
        "payload": {"worker_class": job.worker_class, "job_id": job.id},
    }
    add_rows(session, Outbox, [row])
