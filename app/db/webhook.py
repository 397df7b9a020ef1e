"""Outgoing webhooks: endpoints, and the outbox of what is to be delivered to them, which is their log too."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, OfProject, partial_index


class WebhookEndpoint(OfProject, Base):
    """A URL that receives the events of a project."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_project", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    events: Mapped[list[Any]]
    description: Mapped[str]
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None]
    secret: Mapped[str]
    """Sealed, like the one below."""
    old_secret: Mapped[str | None]
    """Signs too, until it is over."""
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class WebhookDelivery(OfProject, Base):
    """One event for one endpoint; written in the transaction of the event."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        partial_index("ix_webhook_deliveries_due", "next_at", where="state = 'pending'"),
        partial_index("ix_webhook_deliveries_turns", "endpoint_id", "next_at", where="state = 'pending'"),
        Index("ix_webhook_deliveries_order", "endpoint_id", "subject", "seq"),
        Index("ix_webhook_deliveries_log", "endpoint_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    message_id: Mapped[str]
    """The event's id: receivers tell repetitions by it."""
    type: Mapped[str]
    subject: Mapped[str]
    """The job; what is about one job is delivered in order."""
    seq: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[str]
    """The bytes that are signed, the same at every attempt."""
    state: Mapped[str]
    """pending, delivered or failed."""
    attempts: Mapped[int]
    next_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]
    """While a dispatcher sends it."""
    log: Mapped[list[Any]]
    """One document per attempt, the last twenty: time, status, seconds, error, answer."""
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
