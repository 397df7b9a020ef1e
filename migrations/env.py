"""Runs revisions on the connection that app.db.migrate hands over; `alembic revision --autogenerate` comes here too."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from app.db import (  # noqa: F401 - fills the metadata
    hook,
    job,
    planning,
    publication,
    result,
    reuse,
    tenancy,
    upload,
    webhook,
)
from app.db.base import Base
from app.db.session import Database
from app.settings import get_settings


def _run(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # A migration that waits for a lock makes everybody behind it wait too: better to give up and try again.
        connection.execute(text("SET lock_timeout = '5s'"))
        # Two migrations started at once take turns; the second finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(7306577254)"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with Database(get_settings().database).engine.begin() as opened:
        _run(opened)
