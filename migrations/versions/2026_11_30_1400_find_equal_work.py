"""Find equal work of a project without a look at all of its jobs."""

from __future__ import annotations

from alembic import op

revision = "0016_equal"
down_revision = "0015_watch"


def upgrade() -> None:
    op.create_index("ix_jobs_work", "jobs", ["project_id", "work_hash", "id"])
    op.drop_index("ix_jobs_work_hash", "jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_work_hash", "jobs", ["work_hash"])
    op.drop_index("ix_jobs_work", "jobs")
