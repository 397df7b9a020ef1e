"""Polling of an MLflow registry: a version is new after the creation of the source, an alias when it moves.

Only aliases that changed since the last poll are new events, so that a new source starts nothing for old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.integrations.mlflow.client import Mlflow, MlflowError, tags_of
from app.integrations.mlflow.events import alias_set, version_created
from app.integrations.shared.hooks import RegistryEvent
from app.integrations.shared.polling import Holdings, RegistrySilent

OVERLAP_MS: Final = 600_000
"""Read again before the newest version that was seen: versions do not become visible in the order of their times."""
PROMPT: Final = "mlflow.prompt.is_prompt"
"""Tag of what MLflow keeps among the models and is none."""


@dataclass(frozen=True)
class Registered(Holdings):
    """Versions that may be new, and all aliases."""

    versions: list[dict[str, Any]]
    """Newest first."""
    aliases: dict[str, dict[str, str]]
    """Name -> alias -> version."""

    def new_events(self, cursor: Mapping[str, Any]) -> Iterator[RegistryEvent]:
        """Yield versions, and aliases that point elsewhere than at the last poll."""
        for row in reversed(self.versions):
            yield version_created(str(row["name"]), str(row["version"]), tags_of(row))
        before = cursor.get("aliases")
        if before is None:
            return
        for name, aliases in self.aliases.items():
            for alias, version in aliases.items():
                if before.get(name, {}).get(alias) != version:
                    yield alias_set(name, alias, version)

    def cursor(self, cursor: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the time of the newest version, and the aliases."""
        newest = max((int(row["creation_timestamp"]) for row in self.versions), default=0)
        return {"since": max(newest, int(cursor.get("since", 0))), "aliases": self.aliases}


def poll(login: Mapping[str, str], cursor: Mapping[str, Any], *, made_at: datetime) -> Registered:
    """Read the versions that may be new, and all aliases; raises RegistrySilent."""
    since = max(int(made_at.timestamp() * 1000), int(cursor.get("since", 0)) - OVERLAP_MS)
    try:
        with Mlflow(login) as server:
            return Registered(list(_versions(server, since)), _aliases(server))
    except MlflowError as error:
        raise RegistrySilent(error.message) from None


def _versions(server: Mlflow, since: int) -> Iterator[dict[str, Any]]:
    for row in server.versions(""):  # newest first
        if int(row.get("creation_timestamp", 0)) < since:
            return
        if row.get("status", "READY") == "READY" and tags_of(row).get(PROMPT) != "true":
            yield row


def _aliases(server: Mlflow) -> dict[str, dict[str, str]]:
    return {
        str(model["name"]): {str(item["alias"]): str(item["version"]) for item in model["aliases"]}
        for model in server.models()
        if model.get("aliases") and tags_of(model).get(PROMPT) != "true"
    }
