"""The declarative base: constraint names by convention, times with a zone, JSON on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, DateTime, Index, MetaData, TypeDecorator, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped
from sqlalchemy.sql.compiler import SQLCompiler

# none_as_null: None is NULL in SQL too, so that `IS NULL` finds it.
JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC; SQLite forgets the zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JsonColumn, list[Any]: JsonColumn}


def partial_index(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows that fulfil a condition, in the words that both databases share."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


class CommitNumber(ColumnElement[int]):
    """A number that rises with the transactions that write events.

    On Postgres it is the transaction's own: whoever reads only below the oldest one still open misses none that is
    late. Writers of SQLite take turns, so there it is simply the next one.
    """

    inherit_cache = True
    type = BigInteger()


@compiles(CommitNumber, "postgresql")
def _of_transaction(_element: CommitNumber, _compiler: SQLCompiler, **_options: object) -> str:
    return "pg_current_xact_id()::text::bigint"


@compiles(CommitNumber, "sqlite")
def _next(_element: CommitNumber, _compiler: SQLCompiler, **_options: object) -> str:
    return "(SELECT coalesce(max(commit_number), 0) + 1 FROM events)"


class OfProject:
    """Mixin: every row belongs to a project."""

    project_id: Mapped[str]
