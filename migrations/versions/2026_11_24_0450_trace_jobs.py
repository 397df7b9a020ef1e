"""Let the trace context of a request travel with its job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012_traces"
down_revision = "0011_sent_specs"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.String, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as table:
        table.drop_column("traceparent")
