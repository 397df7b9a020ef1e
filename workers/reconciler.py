"""The reconciler process: sweeps once a second while it is the leader, and waits for the lead otherwise."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from abc import ABC, abstractmethod
from pathlib import Path

import structlog
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import PendingRollbackError

from app.db.queries.queue import advisory_lock
from app.db.session import Database
from app.platform import loops
from app.platform.logs import setup_logs
from app.platform.loops import OUTAGE
from app.production import leave_unsafe_production
from app.queue import WorkNotifier, make_celery
from app.settings import get_settings
from app.storage.open import open_store
from workers.background.deliver import Dispatcher
from workers.background.hooks import Evaluator
from workers.background.reconcile import Reconciler
from workers.background.registries import RegistrySweep
from workers.processes import groups
from workers.supervisor.publishing import Publisher

SWEEP_SECONDS = 1.0
STOP_SECONDS = 2.0
"""For what is under way beside the sweep when the process is told to end: a publication is given back by then."""

log = structlog.get_logger(__name__)


class Lead(ABC):
    """At most one process at a time holds it; it ends with the process, however that ends."""

    @abstractmethod
    def held(self) -> bool:
        """Take the lead, or confirm it; False while somebody else has it."""

    @abstractmethod
    def release(self) -> None:
        """Leave the lead to another."""


class PostgresLead(Lead):
    """An advisory lock of a session of its own: gone with the connection."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Ask the server, which forgets the lock when it restarts."""
        try:
            if self._connection is None:
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                if not advisory_lock.try_lock(connection):
                    connection.close()
                    return False
                self._connection = connection
            advisory_lock.confirm(self._connection)
        except OUTAGE:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Unlock, so that another can lead at once, and close the connection for good: where the server did not hear
        of it, the connection would still hold the lock in the pool."""
        if self._connection is not None:
            with contextlib.suppress(*OUTAGE, PendingRollbackError):  # a connection that was lost unlocked by itself
                advisory_lock.unlock(self._connection)
            self._connection.invalidate()
            self._connection.close()
            self._connection = None


class FileLead(Lead):
    """A locked file beside the SQLite database."""

    def __init__(self, database: Database) -> None:
        path = Path(make_url(database.url).database or "espalier.db")
        self._file = os.open(path.with_name(f"{path.name}.reconciler"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def held(self) -> bool:
        """Lock the file; a lock that we hold is taken again at no cost."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def release(self) -> None:
        """Unlock the file."""
        fcntl.flock(self._file, fcntl.LOCK_UN)


def reconcile(reconciler: Reconciler, lead: Lead, stop: threading.Event) -> None:
    """Sweep until `stop` is set; an outage of the database, the broker or the store is waited out."""

    def work() -> None:
        if lead.held():
            reconciler.sweep()

    loops.run("reconciler", stop, work, idle_seconds=SWEEP_SECONDS)


def main() -> None:
    """Run until SIGTERM."""
    settings = get_settings()
    setup_logs(settings)
    leave_unsafe_production(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = Database(settings.database, pool_size=8, statement_seconds=settings.database_statement_seconds)
    lead: Lead = FileLead(database) if settings.database.startswith("sqlite") else PostgresLead(database)
    notifier = WorkNotifier(make_celery(settings))
    works = {
        "webhooks": Dispatcher(database, settings).run,
        "publisher": Publisher(database, open_store(settings), settings, groups=groups.at_start()).run,
        "hooks": Evaluator(database, notifier, settings).run,
        "registries": RegistrySweep(database, settings).run,
    }
    beside = loops.Threads(stop, works).start()
    log.info("reconciler started")
    reconciler = Reconciler(
        database,
        open_store(settings),
        notifier,
        settings=settings,
        phase_store_max_bytes=settings.phase_store_max_bytes,
    )
    reconcile(reconciler, lead, stop)
    beside.join(STOP_SECONDS)


if __name__ == "__main__":
    main()
