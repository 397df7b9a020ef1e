"""Uploads: what a client brings, part by part."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject


class Upload(OfProject, Base):
    """A model or a data set that a client sends."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_project", "project_id", "id"), Index("ix_uploads_stale", "state", "touched_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    """open or complete; what stands still is removed."""
    files: Mapped[list[Any]]
    """name, bytes, sha256 of each."""
    bytes: Mapped[int] = mapped_column(BigInteger)
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    """What the probe found, of a complete model."""
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime]
    """When the last part was asked for: an upload that stands still is aborted."""
    completed_at: Mapped[datetime | None]

    @property
    def prefix(self) -> str:
        """Prefix of the storage keys of its parts."""
        return f"projects/{self.project_id}/uploads/{self.id}/"

    def num_parts(self, num_bytes: int) -> int:
        """Return the number of parts of a file of this size."""
        return -(-num_bytes // self.part_bytes)

    def part_size(self, num_bytes: int, number: int) -> int:
        """Return the size of one part of a file in bytes; 1 is the first."""
        return min(self.part_bytes, num_bytes - (number - 1) * self.part_bytes)

    def part_key(self, file: str, number: int) -> str:
        """Return the storage key of a part."""
        return f"{self.prefix}{file}/{number:05d}"
