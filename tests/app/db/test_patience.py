"""A Postgres that does not get on with its work is not waited for: statements, locks and idle transactions end."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from app.db.session import Database


@pytest.fixture
def database(postgres_url: str) -> Any:
    connected = Database(postgres_url, statement_seconds=0.3)
    yield connected
    connected.dispose()


def test_a_statement_ends(database: Database) -> None:
    with database.reading() as session, pytest.raises(OperationalError, match="statement timeout"):
        session.execute(text("SELECT pg_sleep(60)"))
    with database.reading() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_a_lock_that_another_holds_is_not_waited_for(database: Database, postgres_url: str) -> None:
    holding = Database(postgres_url)
    with holding.reading() as first:
        first.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        with database.reading() as second, pytest.raises(OperationalError, match="timeout"):
            second.execute(text("SELECT count(*) FROM jobs"))
    holding.dispose()


def test_a_lost_peer_is_noticed_and_what_the_url_says_counts(database: Database, postgres_url: str) -> None:
    with database.engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        parameters = raw.info.get_parameters()
    assert (parameters["keepalives_idle"], parameters["tcp_user_timeout"]) == ("10", "20000")
    url = make_url(postgres_url).update_query_dict({"options": "-c statement_timeout=7000", "keepalives_idle": "60"})
    own = Database(url.render_as_string(hide_password=False), statement_seconds=0.3)
    with own.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw.info.get_parameters()["keepalives_idle"] == "60"
        assert connection.scalar(text("SHOW statement_timeout")) == "7s"
    own.dispose()
