"""Create API keys, credentials, usage and the audit log; give projects quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003_tenancy"
down_revision = "0002_lifecycle"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
QUEUED = sa.text("state = 'queued'")
QUOTAS = ("max_queued_jobs", "max_running_jobs", "max_stored_bytes", "max_gpu_seconds", "max_requests_per_second")


def upgrade() -> None:
    for name in QUOTAS:
        op.add_column("projects", sa.Column(name, sa.BigInteger, nullable=True))
    op.create_index("ix_jobs_queued", "jobs", ["project_id"], postgresql_where=QUEUED, sqlite_where=QUEUED)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_project", "api_keys", ["project_id", "id"])
    op.create_table(
        "credentials",
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("sealed", sa.String, nullable=False),
        sa.Column("hint", sa.String, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "kind", name="pk_credentials"),
    )
    op.create_table(
        "usage_days",
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("day", sa.String, nullable=False),
        sa.Column("gpu_seconds", sa.Double, nullable=False),
        sa.Column("cpu_seconds", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "day", name="pk_usage_days"),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("actor", JSON, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("resource_id", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=True),
        sa.Column("data", JSON, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_project", "audit_events", ["project_id", "id"])


def downgrade() -> None:
    for table in ("audit_events", "usage_days", "credentials", "api_keys"):
        op.drop_table(table)
    op.drop_index("ix_jobs_queued", "jobs")
    for name in QUOTAS:
        op.drop_column("projects", name)
