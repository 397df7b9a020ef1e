"""Let projects take turns: what can be claimed, what each used lately, and what an operator allows it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013_fair"
down_revision = "0012_traces"

DEPENDS = {"postgresql": "wait_reason IS DISTINCT FROM 'dependency'", "sqlite": "wait_reason IS NOT 'dependency'"}
NOW = {"postgresql": "now()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')"}
MONTH = {
    "postgresql": "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-01')",
    "sqlite": "strftime('%Y-%m-01', 'now')",
}
CLAIMABLE = """
CREATE VIEW espalier_claimable AS
SELECT due.job_id, due.project_id, due.worker_class, due.place
FROM (
    SELECT jobs.id AS job_id, jobs.project_id, jobs.worker_class,
        row_number() OVER (PARTITION BY jobs.project_id, jobs.worker_class ORDER BY jobs.turn, jobs.id) AS place,
        projects.max_running_jobs - coalesce(held.jobs, 0) AS free
    FROM jobs
    LEFT JOIN projects ON projects.id = jobs.project_id
    LEFT JOIN (
        SELECT project_id, count(*) AS jobs FROM jobs
        WHERE state IN ('running', 'pausing', 'cancelling') GROUP BY project_id
    ) AS held ON held.project_id = jobs.project_id
    LEFT JOIN (
        SELECT project_id, sum(gpu_seconds) AS seconds FROM usage_days WHERE day >= {month} GROUP BY project_id
    ) AS used ON used.project_id = jobs.project_id
    WHERE jobs.state = 'queued' AND jobs.{depends} AND (jobs.not_before IS NULL OR jobs.not_before <= {now})
        AND (projects.max_gpu_seconds IS NULL OR coalesce(used.seconds, 0) < projects.max_gpu_seconds)
) AS due
WHERE due.free IS NULL OR due.place <= due.free
"""


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.add_column("projects", sa.Column("allow_high_priority", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("fetched_bytes", sa.BigInteger, nullable=True))
    op.create_table(
        "recent_usage",
        sa.Column("project_id", sa.String, primary_key=True),
        sa.Column("worker_class", sa.String, primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    _index(
        "ix_jobs_claim",
        "jobs",
        ["worker_class", "project_id", "turn", "id"],
        f"state = 'queued' AND {DEPENDS[dialect]}",
        replaced=True,
    )
    _index("ix_jobs_queued", "jobs", ["project_id", "worker_class", "turn", "id"], "state = 'queued'", replaced=True)
    _index("ix_jobs_paused", "jobs", ["project_id"], "state = 'paused'")
    _index("ix_webhook_deliveries_turns", "webhook_deliveries", ["endpoint_id", "next_at"], "state = 'pending'")
    _index("ix_hook_deliveries_turns", "hook_deliveries", ["project_id", "next_at"], "state = 'pending'")
    _index("ix_publications_turns", "publications", ["project_id", "next_at"], "state = 'pending'")
    op.execute(CLAIMABLE.format(depends=DEPENDS[dialect], now=NOW[dialect], month=MONTH[dialect]))


def downgrade() -> None:
    op.execute("DROP VIEW espalier_claimable")
    for name, table in (
        ("ix_publications_turns", "publications"),
        ("ix_hook_deliveries_turns", "hook_deliveries"),
        ("ix_webhook_deliveries_turns", "webhook_deliveries"),
        ("ix_jobs_paused", "jobs"),
    ):
        op.drop_index(name, table)
    _index("ix_jobs_queued", "jobs", ["project_id"], "state = 'queued'", replaced=True)
    _index("ix_jobs_claim", "jobs", ["worker_class", "turn", "id"], "state = 'queued'", replaced=True)
    op.drop_table("recent_usage")
    op.drop_column("jobs", "fetched_bytes")
    op.drop_column("projects", "allow_high_priority")


def _index(name: str, table: str, columns: list[str], where: str, *, replaced: bool = False) -> None:
    if replaced:
        op.drop_index(name, table)
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
