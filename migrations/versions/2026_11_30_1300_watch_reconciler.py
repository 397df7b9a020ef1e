"""Watch the reconciler: when it last went over everything."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015_watch"
down_revision = "0014_rights"


def upgrade() -> None:
    op.create_table(
        "heartbeats",
        sa.Column("name", sa.String, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_heartbeats"),
    )


def downgrade() -> None:
    op.drop_table("heartbeats")
