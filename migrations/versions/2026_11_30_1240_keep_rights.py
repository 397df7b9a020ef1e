"""Let a rule keep the rights of who saved it last, and a project say which of the service's logins it may use."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014_rights"
down_revision = "0013_fair"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("rules", sa.Column("scopes", JSON, nullable=False, server_default="[]"))
    op.add_column("projects", sa.Column("shared_logins", JSON, nullable=False, server_default="[]"))
    projects = sa.table("projects", sa.column("id", sa.String), sa.column("shared_logins", JSON))
    shared = sa.update(projects).where(projects.c.id == "prj_default").values(shared_logins=["huggingface", "mlflow"])
    op.get_bind().execute(shared)
    _vouch()


def _vouch() -> None:
    """Give each rule the scopes of the key that the audit log names; one that nobody answers for has none."""
    bind = op.get_bind()
    keys = dict(bind.execute(sa.text("SELECT id, scopes FROM api_keys")).tuples().all())
    rules = sa.table("rules", sa.column("id", sa.String), sa.column("scopes", JSON))
    saved = sa.text(
        "SELECT resource_id, actor FROM audit_events WHERE action IN ('rule.create', 'rule.change') ORDER BY id"
    )
    for rule_id, actor in bind.execute(saved).tuples().all():
        who = _read(actor)
        scopes = ["admin"] if who == {"type": "user", "id": "local"} else _read(keys.get(who["id"], []))
        bind.execute(sa.update(rules).where(rules.c.id == rule_id).values(scopes=scopes))


def _read(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - SQLite gives the text of JSON
    return json.loads(value) if isinstance(value, str) else value


def downgrade() -> None:
    for table, column in (("rules", "scopes"), ("projects", "shared_logins")):
        with op.batch_alter_table(table) as batch:
            batch.drop_column(column)
