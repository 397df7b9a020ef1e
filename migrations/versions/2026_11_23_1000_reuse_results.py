"""Let jobs point at results of others, and remember what was seen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004_reuse"
down_revision = "0003_tenancy"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("reused_from", sa.String, nullable=True))
    op.add_column("jobs", sa.Column("waits_for", sa.String, nullable=True))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    op.create_index("ix_artifacts_key", "artifacts", ["key"])
    op.create_table(
        "known_contents",
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("document", JSON, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", name="pk_known_contents"),
    )
    op.create_table(
        "phase_results",
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("document", JSON, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", "name", name="pk_phase_results"),
    )
    op.create_index("ix_phase_results_used", "phase_results", ["used_at"])


def downgrade() -> None:
    op.drop_table("phase_results")
    op.drop_table("known_contents")
    op.drop_index("ix_artifacts_key", "artifacts")
    op.drop_index("ix_jobs_parent_id", "jobs")
    op.drop_column("jobs", "waits_for")
    op.drop_column("jobs", "reused_from")
