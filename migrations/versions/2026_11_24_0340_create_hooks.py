"""Create sources of registry events, their deliveries, rules, verdicts and proposals."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010_hooks"
down_revision = "0009_portal_sessions"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    op.create_table(
        "hook_sources",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("secret", sa.String, nullable=True),
        sa.Column("old_secret", sa.String, nullable=True),
        sa.Column("old_secret_until", TIME, nullable=True),
        sa.Column("cursor", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_hook_sources"),
    )
    op.create_index("ix_hook_sources_project", "hook_sources", ["project_id", "id"])
    _deliveries()
    _rules()
    _decisions()


def _of_source(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_source_id_hook_sources"
    return sa.ForeignKeyConstraint(["source_id"], ["hook_sources.id"], name=name, ondelete="CASCADE")


def _deliveries() -> None:
    op.create_table(
        "hook_deliveries",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("source_id", sa.String, nullable=False),
        sa.Column("via", sa.String, nullable=False),
        sa.Column("dedupe_key", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=True),
        sa.Column("event", JSON, nullable=False),
        sa.Column("body", sa.String, nullable=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("error", sa.String, nullable=True),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("evaluated_at", TIME, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        _of_source("hook_deliveries"),
        sa.PrimaryKeyConstraint("id", name="pk_hook_deliveries"),
        sa.UniqueConstraint("source_id", "dedupe_key", name="uq_hook_deliveries_source_id_dedupe_key"),
    )
    op.create_index(
        "ix_hook_deliveries_due", "hook_deliveries", ["next_at", "id"], postgresql_where=PENDING, sqlite_where=PENDING
    )
    op.create_index("ix_hook_deliveries_list", "hook_deliveries", ["project_id", "id"])
    op.create_index("ix_hook_deliveries_subject", "hook_deliveries", ["source_id", "subject", "id"])


def _rules() -> None:
    op.create_table(
        "rules",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("source_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("match", JSON, nullable=False),
        sa.Column("template", JSON, nullable=False),
        sa.Column("limits", JSON, nullable=False),
        sa.Column("day", sa.String, nullable=True),
        sa.Column("day_count", sa.Integer, nullable=False),
        sa.Column("last_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        _of_source("rules"),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
    )
    op.create_index("ix_rules_project", "rules", ["project_id", "id"])
    op.create_index("ix_rules_source_id", "rules", ["source_id"])


def _of_pair(table: str) -> list[sa.Constraint]:
    return [
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["hook_deliveries.id"], name=f"fk_{table}_delivery_id_hook_deliveries", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["rule_id"], ["rules.id"], name=f"fk_{table}_rule_id_rules", ondelete="CASCADE"),
    ]


def _decisions() -> None:
    op.create_table(
        "hook_verdicts",
        sa.Column("delivery_id", sa.String, nullable=False),
        sa.Column("rule_id", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=True),
        sa.Column("proposal_id", sa.String, nullable=True),
        sa.Column("decided_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        *_of_pair("hook_verdicts"),
        sa.PrimaryKeyConstraint("delivery_id", "rule_id", name="pk_hook_verdicts"),
    )
    op.create_index("ix_hook_verdicts_rule_id", "hook_verdicts", ["rule_id"])
    op.create_table(
        "hook_proposals",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("delivery_id", sa.String, nullable=False),
        sa.Column("rule_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("plan_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=True),
        sa.Column("decided_by", JSON, nullable=True),
        sa.Column("decided_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        *_of_pair("hook_proposals"),
        sa.PrimaryKeyConstraint("id", name="pk_hook_proposals"),
        sa.UniqueConstraint("delivery_id", "rule_id", name="uq_hook_proposals_delivery_id_rule_id"),
    )
    op.create_index("ix_hook_proposals_list", "hook_proposals", ["project_id", "id"])
    op.create_index("ix_hook_proposals_rule_id", "hook_proposals", ["rule_id"])


def downgrade() -> None:
    for table in ("hook_proposals", "hook_verdicts", "rules", "hook_deliveries", "hook_sources"):
        op.drop_table(table)
