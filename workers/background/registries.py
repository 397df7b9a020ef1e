"""Reads the MLflow registry behind every hook source for what its deliveries have lost, and feeds the same inbox.

Beside the reconciler, because a registry may take its time. A version counts from the creation of the source on; of
aliases only what changed since the look before, so that a new source does not wake up what was there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from app.db.hook import HookSource
from app.db.queries import hooks
from app.db.queries.turns import Turns
from app.db.session import Database, clock
from app.integrations.mlflow.client import Mlflow, MlflowError, tags_of
from app.integrations.mlflow.hook import alias_set, version_created
from app.integrations.shared.hooks import RegistryEvent
from app.platform import loops
from app.services.hooks.inbox import record_event
from app.services.tenancy import credentials
from app.settings import Settings

IDLE_SECONDS: Final = 1.0
THREADS: Final = 4
OVERLAP_MS: Final = 600_000
"""Read again before the newest version that was seen: versions do not become visible in the order of their times."""
PROMPT: Final = "mlflow.prompt.is_prompt"
"""Tag of what MLflow keeps among the models and is none."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Seen:
    """What a registry held at one look."""

    versions: list[dict[str, Any]]
    aliases: dict[str, dict[str, str]]
    """Name -> alias -> version."""


class RegistrySweep:
    """One look at the registry of each source, again and again: the projects take turns, and of each one is read."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._turns, self._claiming = Turns(), threading.Lock()
        self._busy: set[str] = set()
        """Projects of which a registry is being read: one that takes its time holds up nobody else's."""

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop; not at all where there is no registry or no interval."""
        if not self._settings.mlflow_tracking_uri or not self._settings.registry_sweep_seconds:
            return
        for number in range(1, THREADS):
            threading.Thread(target=self._run, args=(stop,), name=f"registry {number}", daemon=True).start()
        self._run(stop)

    def _run(self, stop: threading.Event) -> None:
        loops.run("registries", stop, lambda: self.look_once() is not None, idle_seconds=IDLE_SECONDS)

    def look_once(self) -> int | None:
        """Look at the next registry that is due; return how many events nobody had told, None when none is due."""
        source = self._claim()
        if source is None:
            return None
        found: list[int] = []
        try:
            loops.each("registries", [source], lambda one: found.append(self._look_behind(one)), spoiled=self._postpone)
        finally:
            with self._claiming:
                self._busy.discard(source.project_id)
        return sum(found)

    def _look_behind(self, source: HookSource) -> int:
        login = credentials.access(self._database, self._settings, source.project_id, source.kind, "fetch")
        try:
            with Mlflow(login) as server:
                seen = _look(server, _since(source))
        except MlflowError as error:
            log.warning("a registry could not be read", source_id=source.id, error=error.message)
            return 0
        return self._record(source.id, seen)

    def _claim(self) -> HookSource | None:
        """Take the next source that is due, by turns of the projects; no other process looks at it too."""
        with self._claiming, self._database.unit_of_work() as session:
            now = clock(session)
            found = hooks.lock_due_registry(session, _written(now), self._turns, busy=self._busy)
            if found is not None:
                later = now + timedelta(seconds=self._settings.registry_sweep_seconds)
                found.cursor = {**(found.cursor or {}), "next_at": _written(later)}
                self._busy.add(found.project_id)
            return found

    def _postpone(self, source: HookSource) -> None:
        """Let a source wait that breaks us, longer each time; it is looked at again for as long as it is there."""
        with self._database.unit_of_work() as session:
            row = hooks.lock_source(session, source.id)
            if row is not None:
                broken = int((row.cursor or {}).get("broken", 0)) + 1
                pause = max(self._settings.registry_sweep_seconds, loops.delay_seconds(broken))
                later = clock(session) + timedelta(seconds=pause)
                row.cursor = {**(row.cursor or {}), "next_at": _written(later), "broken": broken}

    def _record(self, source_id: str, seen: _Seen) -> int:
        """Write down what is news, and where the next look begins, in one transaction."""
        found = 0
        with self._database.unit_of_work() as session:
            source = hooks.lock_source(session, source_id)
            if source is None:  # deleted meanwhile
                return 0
            cursor = source.cursor or {}
            for event in _news(seen, cursor.get("aliases")):
                found += not record_event(session, source, event, via="reconciliation").duplicate
            newest = max((int(row["creation_timestamp"]) for row in seen.versions), default=0)
            since = max(newest, int(cursor.get("since", 0)))
            source.cursor = {**cursor, "since": since, "aliases": seen.aliases, "broken": 0}
        if found:
            log.warning("found what deliveries have lost", source_id=source_id, events=found)
        return found


def _written(time: datetime) -> str:
    """Write a time of the database so that a later one is a greater text."""
    return time.isoformat(timespec="microseconds")


def _since(source: HookSource) -> int:
    """The time, in the registry's milliseconds, from which on versions are news."""
    made = int(source.created_at.timestamp() * 1000)
    return max(made, int((source.cursor or {}).get("since", 0)) - OVERLAP_MS)


def _look(server: Mlflow, since: int) -> _Seen:
    versions: list[dict[str, Any]] = []
    for row in server.versions(""):  # newest first
        if int(row.get("creation_timestamp", 0)) < since:
            break
        if row.get("status", "READY") == "READY" and tags_of(row).get(PROMPT) != "true":
            versions.append(row)
    aliases = {
        str(model["name"]): {str(item["alias"]): str(item["version"]) for item in model["aliases"]}
        for model in server.models()
        if model.get("aliases") and tags_of(model).get(PROMPT) != "true"
    }
    return _Seen(versions, aliases)


def _news(seen: _Seen, before: Mapping[str, Mapping[str, str]] | None) -> Iterator[RegistryEvent]:
    for row in reversed(seen.versions):
        yield version_created(str(row["name"]), str(row["version"]), tags_of(row))
    if before is None:
        return
    for name, aliases in seen.aliases.items():
        for alias, version in aliases.items():
            if before.get(name, {}).get(alias) != version:
                yield alias_set(name, alias, version)
