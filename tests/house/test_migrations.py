"""The history of the schema ends at the tables that the code declares, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from app.db import hook, job, planning, publication, result, reuse, tenancy, upload, webhook  # noqa: F401 - fills the metadata
from app.db.base import Base
from app.db.migrate import is_current, run_migrations
from app.db.session import Database
from tests.fixtures.services import new_postgres_database


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'new/espalier.db'}"
        return
    with new_postgres_database(request.getfixturevalue("postgres_server")) as url:
        yield url


def test_the_migrations_build_what_the_code_declares(empty_url: str) -> None:
    run_migrations(empty_url)
    database = Database(empty_url)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert connection.execute(text("SELECT id FROM projects")).scalars().all() == ["prj_default"]
    assert is_current(database)
    database.dispose()


def test_migrations_started_together_take_turns(empty_url: str) -> None:
    env = {**os.environ, "ESPALIER_DATABASE_URL": empty_url}
    together = [
        subprocess.Popen([sys.executable, "-m", "app.db.migrate"], env=env, stderr=subprocess.PIPE) for _ in range(3)
    ]
    errors = [process.communicate()[1].decode() for process in together]
    assert [process.returncode for process in together] == [0, 0, 0], errors
    database = Database(empty_url)
    assert is_current(database)
    database.dispose()


def test_an_empty_database_is_not_current(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()
    database = Database(empty_url)
    assert not is_current(database)
    database.dispose()
