"""Add sweeps, plans and presets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007_planning"
down_revision = "0006_uploads"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("base", JSON, nullable=False),
        sa.Column("axes", JSON, nullable=False),
        sa.Column("points", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
    )
    op.create_index("ix_sweeps_list", "sweeps", ["project_id", "id"])
    op.create_table(
        "plans",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("request_sha256", sa.String, nullable=False),
        sa.Column("document", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
    )
    op.create_table(
        "presets",
        sa.Column("project_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("description", sa.String, nullable=False),
        sa.Column("spec", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "name", "version", name="pk_presets"),
    )


def downgrade() -> None:
    for table in ("presets", "plans", "sweeps"):
        op.drop_table(table)
