"""Order the queue by turn, waiting by its end and events by commit; note flushes, retries and drains."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_lifecycle"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
QUEUED = sa.text("state = 'queued'")
PENDING = sa.text("pending_until IS NOT NULL")
TURNS = {
    "postgresql": "(extract(epoch FROM created_at) * 1000)::bigint",
    "sqlite": (
        "CAST(strftime('%s', created_at) AS INTEGER) * 1000 + CAST(substr(strftime('%f', created_at), 4) AS INTEGER)"
    ),
}
LIMITS = {
    "postgresql": "queued_at + make_interval(secs => (request #>> '{limits,max_pending_seconds}')::float)",
    "sqlite": (
        "strftime('%Y-%m-%d %H:%M:%f000', queued_at,"
        " json_extract(request, '$.limits.max_pending_seconds') || ' seconds')"
    ),
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    # Added in place: SQLite would copy the table, and drop what refers to the old one.
    op.add_column("jobs", sa.Column("turn", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("pending_until", TIME, nullable=True))
    op.add_column("jobs", sa.Column("forgiven_seconds", sa.Double, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("last_flush", sa.String, nullable=True))
    op.add_column("events", sa.Column("commit_number", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger, nullable=True))
    op.add_column("workers", sa.Column("drain_requested_at", TIME, nullable=True))
    op.execute(f"UPDATE jobs SET turn = {TURNS[dialect]} + priority * 86400000")  # noqa: S608
    op.execute(f"UPDATE jobs SET pending_until = {LIMITS[dialect]} WHERE state = 'queued'")  # noqa: S608
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index(
        "ix_jobs_claim", "jobs", ["worker_class", "turn", "id"], postgresql_where=QUEUED, sqlite_where=QUEUED
    )
    op.create_index("ix_jobs_pending_until", "jobs", ["pending_until"], postgresql_where=PENDING, sqlite_where=PENDING)
    op.create_index("ix_events_feed", "events", ["commit_number", "job_id", "seq"])


def downgrade() -> None:
    op.drop_index("ix_events_feed", "events")
    op.drop_index("ix_jobs_pending_until", "jobs")
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index(
        "ix_jobs_claim", "jobs", ["worker_class", "priority", "id"], postgresql_where=QUEUED, sqlite_where=QUEUED
    )
    for table, column in (
        ("workers", "drain_requested_at"),
        ("workers", "memory_bytes"),
        ("events", "commit_number"),
        ("jobs", "last_flush"),
        ("jobs", "forgiven_seconds"),
        ("jobs", "pending_until"),
        ("jobs", "turn"),
    ):
        op.drop_column(table, column)
