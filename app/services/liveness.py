"""`python -m app.services.liveness worker|reconciler`: the liveness probe of a role on this host.

A database that does not answer, or has no tables yet, is nobody's fault here: nothing is restarted for it.
"""

from __future__ import annotations

import argparse
import socket
import sys
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.db.queries.queue import measures, workers
from app.db.session import Database, clock
from app.settings import Settings, get_settings

SILENT = timedelta(minutes=3)
"""Longer than any lease that is in use; a sweep that collects garbage may take a while, too."""


def seen_at(session: Session, role: str, host: str) -> datetime | None:
    """Return when the newest worker of a host, or whichever reconciler leads, was last seen; None if never."""
    if role == "reconciler":
        return measures.last_sweep(session)
    return workers.last_seen(session, host)


def is_alive(settings: Settings, role: str, host: str) -> bool:
    """Tell whether a role on a host does its work."""
    database = Database(settings.database)
    try:
        with database.reading() as session:
            seen = seen_at(session, role, host)
            return seen is not None and clock(session) - seen < max(
                SILENT, timedelta(seconds=3 * settings.lease_seconds)
            )
    except DBAPIError:
        return True
    finally:
        database.dispose()


def main() -> int:
    """Answer by the exit status."""
    parser = argparse.ArgumentParser(description="Tells whether a worker or the reconciler does its work.")
    parser.add_argument("role", choices=["worker", "reconciler"])
    role = parser.parse_args().role
    if is_alive(get_settings(), role, socket.gethostname()):
        return 0
    sys.stderr.write(f"no {role} of {socket.gethostname()} was seen for {SILENT.total_seconds():g} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
