"""Create publications."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008_publications"
down_revision = "0007_planning"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
PENDING = sa.text("state = 'pending'")


def upgrade() -> None:
    op.create_table(
        "publications",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("target", JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", TIME, nullable=False),
        sa.Column("locked_until", TIME, nullable=True),
        sa.Column("reference", sa.String, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_publications_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_publications"),
    )
    op.create_index("ix_publications_job", "publications", ["job_id", "id"])
    op.create_index("ix_publications_due", "publications", ["next_at"], postgresql_where=PENDING, sqlite_where=PENDING)


def downgrade() -> None:
    op.drop_table("publications")
