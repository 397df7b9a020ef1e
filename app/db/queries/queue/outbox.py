"""Statements about wake-up signals that are still to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.job import Outbox


def lock_unsent(session: Session, *, limit: int) -> Sequence[Outbox]:
    """Lock the oldest signals that nobody has sent; those that another sends are passed over."""
    query = select(Outbox).where(Outbox.sent_at.is_(None)).order_by(Outbox.id).limit(limit)
    return session.scalars(query.with_for_update(skip_locked=True)).all()


def forget(session: Session, *, sent_before: datetime) -> None:
    """Delete signals that were sent long ago."""
    session.execute(delete(Outbox).where(Outbox.sent_at < sent_before))
