"""What is asked for before there are jobs: sweeps, plans and presets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject


class Sweep(OfProject, Base):
    """One job per point of a grid; its state is theirs."""

    __tablename__ = "sweeps"
    __table_args__ = (Index("ix_sweeps_list", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    base: Mapped[dict[str, Any]]
    """The request that all points share, as sent."""
    axes: Mapped[dict[str, Any]]
    """JSON Pointer -> values."""
    points: Mapped[list[Any]]
    """{job_id, values} in the order of the grid."""
    created_at: Mapped[datetime]


class Plan(OfProject, Base):
    """What a request would take, for as long as that holds."""

    __tablename__ = "plans"

    id: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    """Of source and spec: a job submitted with the plan must ask for the same."""
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Preset(OfProject, Base):
    """One version of a named part of a spec; the newest one counts, without a spec it is deleted."""

    __tablename__ = "presets"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    description: Mapped[str]
    spec: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    created_at: Mapped[datetime]
