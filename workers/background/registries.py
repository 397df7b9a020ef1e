"""Poll the registries behind hook sources for events whose delivery was lost, and record them in the same inbox.

Beside the reconciler, because a registry may take its time.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.db.hook import HookSource
from app.db.queries.connections import hooks
from app.db.queries.round_robin import ProjectRoundRobin
from app.db.session import Database, clock
from app.integrations.shared.polling import Holdings, RegistrySilent
from app.platform import loops
from app.services.hooks.inbox import record_event
from app.services.hooks.receivers import polled
from app.services.tenancy import credentials
from app.settings import Settings

IDLE_SECONDS: Final = 1.0
THREADS: Final = 4
log = structlog.get_logger(__name__)


class RegistrySweep:
    """Polls the registry of each source, round robin over projects, one source of a project at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._polled = polled(settings)
        self._rounds, self._claiming = ProjectRoundRobin(), threading.Lock()
        self._busy: set[str] = set()
        """Projects of which a registry is being read: one that takes its time holds up nobody else's."""

    def run(self, stop: threading.Event) -> None:
        """Poll until `stop` is set; not at all without a registry or an interval."""
        if not self._polled or not self._settings.registry_sweep_seconds:
            return
        names = [f"registry {number}" for number in range(1, THREADS + 1)]
        loops.Threads(stop, dict.fromkeys(names, self._run)).start().join()

    def _run(self, stop: threading.Event) -> None:
        loops.run("registries", stop, lambda: self.poll_once() is not None, idle_seconds=IDLE_SECONDS)

    def poll_once(self) -> int | None:
        """Poll the next registry that is due; return the number of missed events, None when none is due."""
        source = self._claim()
        if source is None:
            return None
        counts: list[int] = []
        try:
            loops.each("registries", [source], lambda one: counts.append(self.poll(one)), spoiled=self._postpone)
        finally:
            with self._claiming:
                self._busy.discard(source.project_id)
        return sum(counts)

    def poll(self, source: HookSource) -> int:
        """Query the registry of a source for events whose delivery was lost, record them, and return how many."""
        login = credentials.access(self._database, self._settings, source.project_id, source.kind, "fetch")
        try:
            held = self._polled[source.kind].poll(login, source.cursor or {}, made_at=source.created_at)
        except RegistrySilent as error:
            log.warning("a registry could not be read", source_id=source.id, error=str(error))
            return 0
        return self._record(source.id, held)

    def _claim(self) -> HookSource | None:
        """Claim the next source that is due, round robin over projects; no other process polls it too."""
        with self._claiming, self._database.unit_of_work() as session:
            now = clock(session)
            source = hooks.lock_due_registry(session, _written(now), self._rounds, kinds=self._polled, busy=self._busy)
            if source is not None:
                later = now + timedelta(seconds=self._settings.registry_sweep_seconds)
                source.cursor = {**(source.cursor or {}), "next_at": _written(later)}
                self._busy.add(source.project_id)
            return source

    def _postpone(self, source: HookSource) -> None:
        """Postpone a source whose polling raised, longer each time, for as long as it exists."""
        with self._database.unit_of_work() as session:
            row = hooks.lock_source(session, source.id)
            if row is not None:
                broken = int((row.cursor or {}).get("broken", 0)) + 1
                pause = max(self._settings.registry_sweep_seconds, loops.delay_seconds(broken))
                later = clock(session) + timedelta(seconds=pause)
                row.cursor = {**(row.cursor or {}), "next_at": _written(later), "broken": broken}

    def _record(self, source_id: str, held: Holdings) -> int:
        """Record new events and the cursor of the next poll in one transaction."""
        recorded = 0
        with self._database.unit_of_work() as session:
            source = hooks.lock_source(session, source_id)
            if source is None:  # deleted meanwhile
                return 0
            cursor = source.cursor or {}
            for event in held.new_events(cursor):
                recorded += not record_event(session, source, event, via="reconciliation").duplicate
            source.cursor = {**cursor, **held.cursor(cursor), "broken": 0}
        if recorded:
            log.warning("found what deliveries have lost", source_id=source_id, events=recorded)
        return recorded


def _written(time: datetime) -> str:
    """Format a database time so that a later one sorts after it as text."""
    return time.isoformat(timespec="microseconds")
