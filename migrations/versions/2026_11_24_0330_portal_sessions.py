"""Create portal sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009_portal_sessions"
down_revision = "0008_publications"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "portal_sessions",
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=True),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_portal_sessions"),
    )


def downgrade() -> None:
    op.drop_table("portal_sessions")
