"""Note since when the device of a worker does not answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017_device"
down_revision = "0016_equal"


def upgrade() -> None:
    op.add_column("workers", sa.Column("device_lost_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("workers") as batch:
        batch.drop_column("device_lost_at")
