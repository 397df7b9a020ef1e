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
LOST = timedelta(minutes=15)
"""How long a GPU may be lost: its worker asks it every five minutes at least, and a new container may see it again."""


def seen_at(session: Session, role: str, host: str, *, gpu: bool) -> datetime | None:
    """Return when the newest worker of a host, or whichever reconciler leads, was last seen; None if never.

    `gpu`: workers whose GPU has been lost for long are not counted.
    """
    if role == "reconciler":
        return measures.last_sweep(session)
    return workers.last_seen(session, host, lost_after=clock(session) - LOST if gpu else None)


def is_alive(settings: Settings, role: str, host: str, *, gpu: bool = False) -> bool:
    """Tell whether a role on a host does its work, and has a GPU for it where it is to have one."""
    database = Database(settings.database)
    try:
        with database.reading() as session:
            seen = seen_at(session, role, host, gpu=gpu)
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
    parser.add_argument("--gpu", action="store_true", help="and whether its GPU, or one of several, answers")
    options = parser.parse_args()
    if is_alive(get_settings(), options.role, socket.gethostname(), gpu=options.gpu):
        return 0
    with_gpu = " with a GPU that answers" if options.gpu else ""
    sys.stderr.write(f"no {options.role}{with_gpu} of {socket.gethostname()} was seen lately\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
