"""Reads the MLflow registry behind every hook source for what its deliveries have lost, and feeds the same inbox.

Beside the reconciler, because a registry may take its time. A version counts from the creation of the source on; of
aliases only what changed since the look before, so that a new source does not wake up what was there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog
from sqlalchemy import select

from app import loops
from app.db.hook import HookSource
from app.db.session import Database, clock
from app.mlflow import Mlflow, MlflowError, tags_of
from app.registries.base import RegistryEvent
from app.registries.mlflow import alias_set, version_created
from app.services import credentials
from app.services.hooks.inbox import record_event
from app.settings import Settings

IDLE_SECONDS: Final = 1.0
THREADS: Final = 4
BATCH: Final = 16
"""Sources that are taken at once."""
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
    """One look at the registry of each source, again and again."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop; not at all where there is no registry or no interval."""
        if not self._settings.mlflow_tracking_uri or not self._settings.registry_sweep_seconds:
            return
        loops.run("registries", stop, self.sweep, idle_seconds=IDLE_SECONDS)

    def sweep(self) -> int:
        """Look at every registry that is due, a few at a time; return how many events nobody had told."""
        found: list[int] = []
        looked: set[str] = set()

        def look(source: HookSource) -> None:
            found.append(self._look_behind(source))

        with ThreadPoolExecutor(THREADS, thread_name_prefix="registry") as pool:
            while batch := self._claim(but=looked):
                looked |= {source.id for source in batch}
                list(pool.map(lambda source: loops.each("registries", [source], look, spoiled=self._postpone), batch))
        return sum(found)

    def _look_behind(self, source: HookSource) -> int:
        login = credentials.mlflow_login(self._database, self._settings, source.project_id)
        try:
            with Mlflow(login) as server:
                seen = _look(server, _since(source))
        except MlflowError as error:
            log.warning("a registry could not be read", source_id=source.id, error=error.message)
            return 0
        return self._record(source.id, seen)

    def _claim(self, *, but: Collection[str]) -> list[HookSource]:
        """Take some of the sources that are due, by turns of their projects; no other process looks at them too."""
        with self._database.unit_of_work() as session:
            now = clock(session)
            query = select(HookSource).where(HookSource.kind == "mlflow").order_by(HookSource.id)
            rows = session.scalars(query.with_for_update(skip_locked=True))
            chosen = _by_turns([row for row in rows if row.id not in but and _due(row, now)])[:BATCH]
            later = now + timedelta(seconds=self._settings.registry_sweep_seconds)
            for row in chosen:
                row.cursor = {**(row.cursor or {}), "next_at": later.isoformat()}
        return chosen

    def _postpone(self, source: HookSource) -> None:
        """Let a source wait that breaks us, longer each time; it is looked at again for as long as it is there."""
        with self._database.unit_of_work() as session:
            row = session.get(HookSource, source.id, with_for_update=True)
            if row is not None:
                broken = int((row.cursor or {}).get("broken", 0)) + 1
                pause = max(self._settings.registry_sweep_seconds, loops.delay_seconds(broken))
                later = clock(session) + timedelta(seconds=pause)
                row.cursor = {**(row.cursor or {}), "next_at": later.isoformat(), "broken": broken}

    def _record(self, source_id: str, seen: _Seen) -> int:
        """Write down what is news, and where the next look begins, in one transaction."""
        found = 0
        with self._database.unit_of_work() as session:
            source = session.get(HookSource, source_id, with_for_update=True)
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


def _by_turns(sources: Sequence[HookSource]) -> list[HookSource]:
    """The first of every project, then the second of every project, and so on."""
    places: Counter[str] = Counter()
    numbered = []
    for source in sources:
        numbered.append((places[source.project_id], source.id, source))
        places[source.project_id] += 1
    return [source for _, _, source in sorted(numbered, key=lambda one: one[:2])]


def _due(source: HookSource, now: datetime) -> bool:
    told = (source.cursor or {}).get("next_at")
    return told is None or datetime.fromisoformat(told) <= now


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
