"""Create jobs, what happens to them and what they leave behind; and the default project."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)
QUEUED = sa.text("state = 'queued'")
LEASED = sa.text("state IN ('running', 'pausing', 'cancelling')")
UNSENT = sa.text("sent_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("body_sha256", sa.String, nullable=False),
        sa.Column("resource_id", sa.String, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
        sa.UniqueConstraint(
            "project_id", "method", "path", "key", name="uq_idempotency_keys_project_id_method_path_key"
        ),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("parent_id", sa.String, nullable=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("initiator", JSON, nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("resolved_spec", JSON, nullable=True),
        sa.Column("resolved_revision", sa.String, nullable=True),
        sa.Column("work_hash", sa.String, nullable=True),
        sa.Column("engine_version", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("method", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("phase", sa.String, nullable=True),
        sa.Column("phase_current", sa.Integer, nullable=False),
        sa.Column("phase_total", sa.Integer, nullable=False),
        sa.Column("phase_unit", sa.String, nullable=False),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("wait_reason", sa.String, nullable=True),
        sa.Column("worker_class", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("failures", JSON, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("worker_id", sa.String, nullable=True),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
        sa.Column("checkpoints", JSON, nullable=False),
        sa.Column("event_seq", sa.BigInteger, nullable=False),
        sa.Column("error", JSON, nullable=True),
        sa.Column("gate", JSON, nullable=True),
        sa.Column("report", JSON, nullable=True),
        sa.Column("warnings", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("queued_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("running_seconds", sa.Double, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index(
        "ix_jobs_claim", "jobs", ["worker_class", "priority", "id"], postgresql_where=QUEUED, sqlite_where=QUEUED
    )
    op.create_index("ix_jobs_lease", "jobs", ["lease_until"], postgresql_where=LEASED, sqlite_where=LEASED)
    op.create_index("ix_jobs_list", "jobs", ["project_id", "id"])
    op.create_index("ix_jobs_work_hash", "jobs", ["work_hash"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("topic", sa.String, nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("sent_at", TIME, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_pending", "outbox", ["id"], postgresql_where=UNSENT, sqlite_where=UNSENT)
    op.create_table(
        "projects",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("worker_class", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("engine_version", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=True),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_job_id", "artifacts", ["job_id"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("worker_id", sa.String, nullable=False),
        sa.Column("outcome", sa.String, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.Column("resumed_from", JSON, nullable=True),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.UniqueConstraint("job_id", "number", name="uq_attempts_job_id_number"),
    )
    op.create_index("ix_attempts_job_id", "attempts", ["job_id"])
    op.create_table(
        "events",
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("phase", sa.String, nullable=True),
        sa.Column("data", JSON, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "layers",
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("block", sa.Integer, nullable=False),
        sa.Column("shape", JSON, nullable=False),
        sa.Column("pattern", sa.String, nullable=False),
        sa.Column("sparsity_requested", sa.Double, nullable=False),
        sa.Column("sparsity_achieved", sa.Double, nullable=False),
        sa.Column("error_before", sa.Double, nullable=True),
        sa.Column("error_after", sa.Double, nullable=True),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_layers_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_layers"),
    )
    op.create_table(
        "log_lines",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("level", sa.String, nullable=False),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_log_lines_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_log_lines"),
    )
    op.create_index("ix_log_lines_job", "log_lines", ["job_id", "id"])
    op.create_table(
        "metric_points",
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("step", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("phase", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metric_points_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", "step", name="pk_metric_points"),
    )
    op.create_table(
        "phases",
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("seconds", sa.Double, nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=True),
        sa.Column("perplexity", JSON, nullable=True),
        sa.Column("project_id", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_phases_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_phases"),
    )
    op.bulk_insert(
        sa.table("projects", sa.column("id", sa.String), sa.column("name", sa.String), sa.column("created_at", TIME)),
        [{"id": "prj_default", "name": "default", "created_at": datetime.now(UTC)}],
    )


def downgrade() -> None:
    for table in (
        "phases",
        "metric_points",
        "log_lines",
        "layers",
        "events",
        "attempts",
        "artifacts",
        "workers",
        "projects",
        "outbox",
        "jobs",
        "idempotency_keys",
    ):
        op.drop_table(table)
