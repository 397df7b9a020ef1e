"""Tenants: projects with their quotas, keys, credentials, what they use, and who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject


class Project(Base):
    """A tenant; everything belongs to one."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    max_queued_jobs: Mapped[int | None] = mapped_column(BigInteger)
    max_running_jobs: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_gpu_seconds: Mapped[int | None] = mapped_column(BigInteger)
    max_requests_per_second: Mapped[int | None] = mapped_column(BigInteger)
    allow_high_priority: Mapped[bool] = mapped_column(default=False)
    """Whether its jobs may ask for priority `high`."""
    shared_logins: Mapped[list[Any]] = mapped_column(JsonColumn, default=list)
    """Services, by kind, that it may reach with the login of the operator where it has none of its own."""
    created_at: Mapped[datetime]

    @property
    def quotas(self) -> dict[str, int | None]:
        """The bounds by name."""
        return {name: getattr(self, name) for name in QUOTAS}


QUOTAS = ("max_queued_jobs", "max_running_jobs", "max_stored_bytes", "max_gpu_seconds", "max_requests_per_second")


class ApiKey(OfProject, Base):
    """A key; of its secret only the HMAC is known."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_project", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scopes: Mapped[list[Any]]
    digest: Mapped[str]
    """HMAC-SHA256 of the whole key under the pepper, in hex."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute."""
    revoked_at: Mapped[datetime | None]


class PortalSession(OfProject, Base):
    """A browser that has signed in to the portal; of its cookie only the HMAC is known."""

    __tablename__ = "portal_sessions"

    digest: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str | None]
    """The key that it signed in with, whose end is the session's."""
    subject: Mapped[str]
    """Who it is, for the audit log: the key's id, or what the identity provider calls the person."""
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Credential(OfProject, Base):
    """A secret of another service, sealed."""

    __tablename__ = "credentials"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    sealed: Mapped[str]
    hint: Mapped[str]
    """Its last characters, for people."""
    updated_at: Mapped[datetime]


class UsageDay(OfProject, Base):
    """What the attempts of a project used on one day (UTC)."""

    __tablename__ = "usage_days"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    gpu_seconds: Mapped[float]
    cpu_seconds: Mapped[float]
    attempts: Mapped[int]


class RecentUsage(OfProject, Base):
    """How long a project's attempts held workers of a class in one slot of time: what the next claim goes by.

    Rows of their own, because an attempt ends with its job, and a deleted job has used what it used.
    """

    __tablename__ = "recent_usage"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    worker_class: Mapped[str] = mapped_column(primary_key=True)
    slot: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Its beginning, in seconds since 1970."""
    seconds: Mapped[float]


class AuditEvent(OfProject, Base):
    """Who did what, when; written in the transaction that did it."""

    __tablename__ = "audit_events"
    __table_args__ = (Index("ix_audit_events_project", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    time: Mapped[datetime]
    actor: Mapped[dict[str, Any]]
    action: Mapped[str]
    resource_id: Mapped[str]
    request_id: Mapped[str | None]
    data: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
