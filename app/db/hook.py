"""Registry events: sources, what they delivered, the rules, what each rule made of each delivery, and proposals."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, JsonColumn, OfProject, partial_index


class HookSource(OfProject, Base):
    """A registry that may deliver events."""

    __tablename__ = "hook_sources"
    __table_args__ = (Index("ix_hook_sources_project", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    secret: Mapped[str | None]
    """Sealed, like the one below; without it nothing is accepted."""
    old_secret: Mapped[str | None]
    """Is accepted too, until it is over."""
    old_secret_until: Mapped[datetime | None]
    cursor: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    """Where the sweep of the registry stands, which finds what deliveries have lost."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class HookDelivery(OfProject, Base):
    """One event of a registry, once, by whatever way it was heard of."""

    __tablename__ = "hook_deliveries"
    __table_args__ = (
        UniqueConstraint("source_id", "dedupe_key"),
        partial_index("ix_hook_deliveries_due", "next_at", "id", where="state = 'pending'"),
        partial_index("ix_hook_deliveries_turns", "project_id", "next_at", where="state = 'pending'"),
        Index("ix_hook_deliveries_list", "project_id", "id"),
        Index("ix_hook_deliveries_subject", "source_id", "subject", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("hook_sources.id", ondelete="CASCADE"))
    via: Mapped[str]
    """webhook or reconciliation."""
    dedupe_key: Mapped[str]
    """A hash, like the subject."""
    subject: Mapped[str | None]
    event: Mapped[dict[str, Any]]
    """As app.integrations.shared.hooks.RegistryEvent."""
    body: Mapped[str | None]
    """As it came; null for what reconciliation found."""
    state: Mapped[str]
    """pending, evaluated or failed."""
    attempts: Mapped[int]
    next_at: Mapped[datetime]
    error: Mapped[str | None]
    received_at: Mapped[datetime]
    evaluated_at: Mapped[datetime | None]


class Rule(OfProject, Base):
    """Which events of a source become which jobs."""

    __tablename__ = "rules"
    __table_args__ = (Index("ix_rules_project", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("hook_sources.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    enabled: Mapped[bool]
    mode: Mapped[str]
    """dry_run, propose or run."""
    match: Mapped[dict[str, Any]]
    template: Mapped[dict[str, Any]]
    limits: Mapped[dict[str, Any]]
    scopes: Mapped[list[Any]]
    """Of who saved it last: what its jobs may do."""
    day: Mapped[str | None]
    """The day (UTC) that the count below is of; the row is locked while it counts."""
    day_count: Mapped[int]
    last_at: Mapped[datetime | None]
    """When it last let an event through."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class HookVerdict(OfProject, Base):
    """What one rule made of one delivery, and why."""

    __tablename__ = "hook_verdicts"

    delivery_id: Mapped[str] = mapped_column(ForeignKey("hook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    rule_id: Mapped[str] = mapped_column(ForeignKey("rules.id", ondelete="CASCADE"), primary_key=True, index=True)
    outcome: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    job_id: Mapped[str | None]
    proposal_id: Mapped[str | None]
    decided_at: Mapped[datetime]


class HookProposal(OfProject, Base):
    """A job that a rule would make, and that a person decides on."""

    __tablename__ = "hook_proposals"
    __table_args__ = (
        UniqueConstraint("delivery_id", "rule_id"),
        Index("ix_hook_proposals_list", "project_id", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    delivery_id: Mapped[str] = mapped_column(ForeignKey("hook_deliveries.id", ondelete="CASCADE"))
    rule_id: Mapped[str] = mapped_column(ForeignKey("rules.id", ondelete="CASCADE"), index=True)
    model: Mapped[str]
    request: Mapped[dict[str, Any]]
    """The body of the job."""
    plan_id: Mapped[str]
    state: Mapped[str]
    """waiting, approved or rejected."""
    job_id: Mapped[str | None]
    decided_by: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    decided_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
