"""The advisory lock that makes one reconciler the leader: it belongs to a connection and is gone with it."""

from __future__ import annotations

from sqlalchemy import Connection, text

_ADVISORY_LOCK = 7306577255
"""Any number that nothing else on the server uses."""


def try_lock(connection: Connection) -> bool:
    """Take the lock for as long as the connection lasts; False while another connection holds it."""
    return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}))


def confirm(connection: Connection) -> None:
    """Ask the server whether the connection, and the lock with it, is still there; raises where it is not."""
    connection.scalar(text("SELECT 1"))


def unlock(connection: Connection) -> None:
    """Let another connection take the lock."""
    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
