"""The history of the schema ends at the tables that the code declares, on both databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import String, select, text

from app.db import hook, job, planning, publication, result, reuse, tenancy, upload, webhook  # noqa: F401 - fills the metadata
from app.db.base import Base
from app.db.job import CLAIMABLE_VIEW
from app.db.migrate import is_current, run_migrations
from app.db.session import Database, clock
from tests.fixtures.servers.services import new_postgres_database
from tests.fixtures.workers.runs import job_fields


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


def test_a_rule_keeps_the_rights_of_the_key_that_saved_it_last(empty_url: str) -> None:
    run_migrations(empty_url, "0013_fair")
    database = Database(empty_url)
    now = "2026-11-01 00:00:00+00:00"
    audit = (
        "INSERT INTO audit_events (id, project_id, time, actor, action, resource_id, data)"
        f" VALUES (:id, 'prj_default', '{now}', :actor, :action, :rule, '{{}}')"
    )
    saved = [
        ("aud_1", {"type": "api_key", "id": "key_all"}, "rule.create", "rul_key"),
        ("aud_2", {"type": "api_key", "id": "key_few"}, "rule.change", "rul_key"),
        ("aud_3", {"type": "user", "id": "local"}, "rule.create", "rul_local"),
        ("aud_4", {"type": "api_key", "id": "key_gone"}, "rule.create", "rul_gone"),
    ]
    with database.engine.begin() as connection:
        for key, scopes in (("key_all", ["admin"]), ("key_few", ["hooks:manage"])):
            connection.execute(
                text(
                    "INSERT INTO api_keys (id, project_id, name, scopes, digest, created_at)"
                    f" VALUES (:id, 'prj_default', 'k', :scopes, '', '{now}')"
                ),
                {"id": key, "scopes": json.dumps(scopes)},
            )
        connection.execute(
            text(
                "INSERT INTO hook_sources (id, project_id, kind, name, created_at, updated_at)"
                f" VALUES ('src_1', 'prj_default', 'generic', 's', '{now}', '{now}')"
            )
        )
        for rule in ("rul_key", "rul_local", "rul_gone", "rul_unknown"):
            connection.execute(
                text(
                    "INSERT INTO rules (id, project_id, source_id, name, enabled, mode, match, template, limits,"
                    " day_count, created_at, updated_at) VALUES (:id, 'prj_default', 'src_1', 'r', true, 'run', '{}',"
                    f" '{{}}', '{{}}', 0, '{now}', '{now}')"
                ),
                {"id": rule},
            )
        for id_, actor, action, rule in saved:
            connection.execute(text(audit), {"id": id_, "actor": json.dumps(actor), "action": action, "rule": rule})
    run_migrations(empty_url)
    with database.reading() as session:
        scopes_of = {row.id: row.scopes for row in session.scalars(select(hook.Rule))}
        shared = session.scalars(select(tenancy.Project)).one().shared_logins
    assert scopes_of == {"rul_key": ["hooks:manage"], "rul_local": ["admin"], "rul_gone": [], "rul_unknown": []}
    assert shared == ["huggingface", "mlflow"]
    database.dispose()


def test_a_migration_may_rebuild_a_table_that_views_read_and_rows_belong_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    run_migrations(url)
    database = Database(url)
    with database.unit_of_work() as session:
        now = clock(session)
        session.add(job.Job(**job_fields("steady", now) | {"id": "job_1"}))
        session.flush()
        session.add(
            job.Event(
                id="evt_1",
                job_id="job_1",
                project_id="prj_default",
                seq=1,
                type="job.queued",
                time=now,
                attempt=0,
                phase=None,
                data={},
            )
        )

    def rebuild(config: Config, _revision: str) -> None:
        operations = Operations(MigrationContext.configure(config.attributes["connection"]))
        for table, column in (("jobs", "name"), ("events", "phase"), ("projects", "name")):
            with operations.batch_alter_table(table, recreate="always") as batch:
                batch.alter_column(column, existing_type=String, nullable=True)

    monkeypatch.setattr("alembic.command.upgrade", rebuild)
    run_migrations(url)
    with database.reading() as session:
        assert session.scalars(select(job.Event.id)).all() == ["evt_1"]
        assert session.scalars(select(CLAIMABLE_VIEW.c.job_id)).all() == ["job_1"]
        assert session.execute(text("PRAGMA foreign_key_list(events)")).all()[0][2] == "jobs"
    database.dispose()
