"""What a run leaves behind: phases, metrics, layers, log lines, artifacts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject


def _job() -> Mapped[str]:
    return mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


class PhaseRecord(OfProject, Base):
    """One phase of a job, over all its attempts, and all its turns where there are cycles, members or several steps."""

    __tablename__ = "phases"

    job_id: Mapped[str] = _job()
    name: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    started_at: Mapped[datetime]
    """Of the newest turn."""
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    """Of all turns that the newest attempt has finished, work that it took over included."""
    peak_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    perplexity: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)


class MetricPoint(OfProject, Base):
    """One point of a metric series; a later attempt that repeats a step overwrites it."""

    __tablename__ = "metric_points"

    job_id: Mapped[str] = _job()
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    phase: Mapped[str]
    attempt: Mapped[int]
    value: Mapped[float]
    time: Mapped[datetime]


class LayerRow(OfProject, Base):
    """One pruned matrix."""

    __tablename__ = "layers"

    job_id: Mapped[str] = _job()
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    block: Mapped[int]
    shape: Mapped[list[Any]]
    pattern: Mapped[str]
    sparsity_requested: Mapped[float]
    sparsity_achieved: Mapped[float]
    error_before: Mapped[float | None]
    error_after: Mapped[float | None]
    seconds: Mapped[float]


class LogLine(OfProject, Base):
    """One line that a child wrote."""

    __tablename__ = "log_lines"
    __table_args__ = (Index("ix_log_lines_job", "job_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    time: Mapped[datetime]
    level: Mapped[str]
    text: Mapped[str]


class Artifact(OfProject, Base):
    """One file of a committed result."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    kind: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    key: Mapped[str] = mapped_column(index=True)
    """Where it lies in the store; a file stays for as long as any row names it."""
    created_at: Mapped[datetime]
