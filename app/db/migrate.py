"""Bring a database to the newest revision: `python -m app.db.migrate`."""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import OperationalError

from app.db.session import Database
from app.settings import get_settings

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"


def run_migrations(url: str, revision: str = "head") -> None:
    """Upgrade the database behind a URL to a revision, the newest one by default, in one transaction."""
    if url.startswith("sqlite") and (file := make_url(url).database):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    database = Database(url)
    config = _config()
    try:
        # IMMEDIATE on SQLite: two migrations started at once take turns.
        with database.engine.connect().execution_options(espalier_begin="IMMEDIATE") as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:
                _let_tables_be_rebuilt(connection)
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
                if sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).all()):
                    raise RuntimeError(f"a migration leaves rows that belong to none: {broken[:5]}")
    finally:
        database.dispose()


def _let_tables_be_rebuilt(connection: Connection) -> None:
    """Let a SQLite migration replace a table (`batch_alter_table`); within a transaction it is too late to say so.

    Else dropping the old one deletes what belongs to its rows, and a view that reads it forbids the new one its name.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    for pragma in ("foreign_keys=OFF", "legacy_alter_table=ON"):
        driver.execute(f"PRAGMA {pragma}")


def is_current(database: Database) -> bool:
    """Tell whether a database is at the newest revision."""
    with database.engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    return revision == ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(hour).2d%%(minute).2d_%%(slug)s")
    return config


if __name__ == "__main__":
    try:
        run_migrations(get_settings().database)
    except OperationalError as error:
        sys.exit(f"The database does not answer: {error.orig}")
