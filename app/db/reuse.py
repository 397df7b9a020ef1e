"""What is known already: contents that were seen, and results of phases that other jobs may start from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, OfProject


class KnownContent(OfProject, Base):
    """What a pinned source or text turned out to be, so that the next job over it is known before it runs."""

    __tablename__ = "known_contents"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """A name whose content never changes: a commit, a file at one size, time and inode."""
    document: Mapped[dict[str, Any]]
    """{revision, facts} of a model, {sha256} of a text."""
    seen_at: Mapped[datetime]


class PhaseResult(OfProject, Base):
    """One checkpoint of a phase, for every job of the project whose prefix is equal."""

    __tablename__ = "phase_results"
    __table_args__ = (Index("ix_phase_results_used", "used_at"),)

    project_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """Hash of all that decides it."""
    name: Mapped[str] = mapped_column(primary_key=True)
    phase: Mapped[str]
    job_id: Mapped[str]
    """Who made it."""
    document: Mapped[dict[str, Any]]
    """StoredCheckpoint, with its key in the store."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
