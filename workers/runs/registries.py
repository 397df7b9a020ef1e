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
from sqlalchemy import select

from app.db.hook import HookSource
from app.db.session import Database, clock
from app.mlflow import Mlflow, MlflowError, tags_of
from app.registries.base import RegistryEvent
from app.registries.mlflow import alias_set, version_created
from app.services import credentials
from app.services.hooks.inbox import record_event
from app.settings import Settings
from workers.runs.keeper import OUTAGE

IDLE_SECONDS: Final = 1.0
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
        while not stop.is_set():
            try:
                self.sweep()
            except OUTAGE as error:
                log.warning("the database is out of reach", error=type(error).__name__)
            except Exception:  # the next look comes
                log.exception("a look at a registry broke")
            stop.wait(IDLE_SECONDS)

    def sweep(self) -> int:
        """Look at every registry that is due; return how many events nobody had told."""
        found = 0
        for source in self._claim():
            login = credentials.mlflow_login(self._database, self._settings, source.project_id)
            try:
                with Mlflow(login) as server:
                    seen = _look(server, _since(source))
            except MlflowError as error:
                log.warning("a registry could not be read", source_id=source.id, error=error.message)
                continue
            found += self._record(source.id, seen)
        return found

    def _claim(self) -> list[HookSource]:
        """Take the sources that are due, so that no other process looks at them too."""
        with self._database.unit_of_work() as session:
            now = clock(session)
            query = select(HookSource).where(HookSource.kind == "mlflow").with_for_update(skip_locked=True)
            due = [row for row in session.scalars(query) if _due(row, now)]
            later = now + timedelta(seconds=self._settings.registry_sweep_seconds)
            for row in due:
                row.cursor = {**(row.cursor or {}), "next_at": later.isoformat()}
        return due

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
            source.cursor = {**cursor, "since": since, "aliases": seen.aliases}
        if found:
            log.warning("found what deliveries have lost", source_id=source_id, events=found)
        return found


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
