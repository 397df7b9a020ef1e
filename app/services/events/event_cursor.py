"""Opaque cursor from which the stream of all events of a project resumes."""

from __future__ import annotations

import base64
import json

from app.db.job import Event
from app.db.queries.jobs import event_stream
from app.db.queries.jobs.event_stream import Position
from app.db.session import Database
from app.errors import InvalidCursor


def of_event(event: Event) -> str:
    """Return the cursor right after an event."""
    return _written(event_stream.position_of(event))


def of_now(database: Database) -> str:
    """Return the cursor before all events still to come."""
    with database.reading() as session:
        return _written(event_stream.now(session))


def _written(position: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def parse(cursor: str) -> Position:
    """Return the position that a cursor encodes; raises InvalidCursor."""
    try:
        number, job_id, seq = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = Position(int(number), str(job_id), int(seq))
    except (ValueError, TypeError, OverflowError):
        raise InvalidCursor("This is no id of the stream of all events.") from None
    if not (0 <= place.commit_number < 2**63 and 0 <= place.seq < 2**63):
        raise InvalidCursor("This is no id of the stream of all events.")
    return place
