"""Pages of lists that begin with what is newest: ids and sequence numbers grow with time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

_Row = TypeVar("_Row")
_Place = TypeVar("_Place", str, int)


def newest(
    session: Session,
    query: Select[_Row],
    place: InstrumentedAttribute[_Place],
    *,
    before: _Place | None,
    limit: int,
) -> Sequence[_Row]:
    """Return the rows of a query that come after the place `before`, newest first."""
    if before is not None:
        query = query.where(place < before)
    return session.scalars(query.order_by(place.desc()).limit(limit)).all()
