"""Publications: results on their way to a registry."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject, partial_index


class Publication(OfProject, Base):
    """One result for one target."""

    __tablename__ = "publications"
    __table_args__ = (
        Index("ix_publications_job", "job_id", "id"),
        partial_index("ix_publications_due", "next_at", where="state = 'pending'"),
        partial_index("ix_publications_turns", "project_id", "next_at", where="state = 'pending'"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    target: Mapped[dict[str, Any]]
    state: Mapped[str]
    """pending, succeeded or failed."""
    attempts: Mapped[int]
    next_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]
    """While a publisher works on it."""
    reference: Mapped[str | None]
    """The commit, or the address of the manifest."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
