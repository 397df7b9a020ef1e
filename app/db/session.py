"""The engine and the unit of work: one commit at the edge, the database's clock, SQLite made safe."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url, select, text
from sqlalchemy.orm import Session, sessionmaker

from app.db.base import Base

POOL_SECONDS = 10.0
"""How long a thread waits for a connection of the pool; then the call is a 503."""
_SQLITE_CLOCK = text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")


class Database:
    """A database behind one URL; SQLite and Postgres look the same from outside."""

    def __init__(self, url: str, *, pool_size: int = 16, statement_seconds: float = 0) -> None:
        """`statement_seconds`: how long Postgres may work on one statement, or wait for a lock; 0: for ever."""
        url = url.replace("postgresql://", "postgresql+psycopg://", 1).replace(
            "postgres://", "postgresql+psycopg://", 1
        )
        self.url = url
        self.engine: Engine
        if url.startswith("sqlite"):
            self.engine = create_engine(url, connect_args={"timeout": 15, "check_same_thread": False})
            _prepare_sqlite(self.engine)
        else:
            self.engine = create_engine(
                url,
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_pre_ping=True,
                pool_timeout=POOL_SECONDS,
                connect_args=_patience(url, statement_seconds),
            )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def unit_of_work(self) -> Iterator[Session]:
        """Open a session that commits at the end, or rolls back: for statements that write."""
        with self._sessions.begin() as session:
            if self.engine.dialect.name == "sqlite":
                session.connection(execution_options={"espalier_begin": "IMMEDIATE"})
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session for statements that only read."""
        with self._sessions() as session:
            yield session

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _patience(url: str, statement_seconds: float) -> dict[str, Any]:
    """Return the timeouts of a connection to a Postgres that is busy or unreachable."""
    arguments = {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    given = make_url(url).query
    defaults: dict[str, Any] = {name: value for name, value in arguments.items() if name not in given}
    if statement_seconds and "options" not in given:
        limits = {
            "statement_timeout": statement_seconds,
            "lock_timeout": statement_seconds,
            "idle_in_transaction_session_timeout": 4 * statement_seconds,
        }
        defaults["options"] = " ".join(f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items())
    return defaults


_DEFERRED = "deferred rows"
_ANSWERS = "answers"
_T = TypeVar("_T")


@dataclass
class _Deferred:
    rows: dict[type[Base], list[dict[str, Any]]] = field(default_factory=dict)
    calls: dict[Callable[[Session, list[Any]], None], list[Any]] = field(default_factory=dict)


@contextmanager
def deferring(session: Session) -> Iterator[None]:
    """Collect what `add_rows` and `do_later` are given, and do it together at the end, after what the session holds."""
    deferred = _Deferred()
    session.info[_DEFERRED] = deferred
    yield
    del session.info[_DEFERRED]
    session.flush()
    for table, rows in deferred.rows.items():
        session.execute(insert(table), rows)
    for call, items in deferred.calls.items():
        call(session, items)


def add_rows(session: Session, table: type[Base], rows: list[dict[str, Any]]) -> None:
    """Insert rows that nothing in this transaction reads again: now, or with those of others."""
    deferred: _Deferred | None = session.info.get(_DEFERRED)
    if deferred is not None:
        deferred.rows.setdefault(table, []).extend(rows)
    elif rows:
        session.flush()
        session.execute(insert(table), rows)


def do_later(session: Session, call: Callable[[Session, list[_T]], None], item: _T) -> None:
    """Make a call for an item of what the session holds: now, or for the items of others too."""
    deferred: _Deferred | None = session.info.get(_DEFERRED)
    if deferred is not None:
        deferred.calls.setdefault(call, []).append(item)
    else:
        session.flush()
        call(session, [item])


def once(session: Session, question: Hashable, ask: Callable[[], _T]) -> _T:
    """Return the cached answer of this transaction, or ask: only for rows that the transaction does not change."""
    answers: dict[Hashable, _T] = session.info.setdefault(_ANSWERS, {})
    if question not in answers:
        with session.no_autoflush:
            answers[question] = ask()
    return answers[question]


def clock(session: Session) -> datetime:
    """Return the database's time: the only clock that leases, limits and events know."""
    if session.get_bind().dialect.name == "sqlite":
        return datetime.fromisoformat(session.scalar(_SQLITE_CLOCK) or "").replace(tzinfo=UTC)
    now = session.scalar(select(text("clock_timestamp()")))
    assert isinstance(now, datetime)
    return now.astimezone(UTC)


def _prepare_sqlite(engine: Engine) -> None:
    """Take transaction control from the driver: a deferred transaction that reads and then writes loses its write."""

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=15000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        mode = connection.get_execution_options().get("espalier_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")
