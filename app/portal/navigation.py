"""The menu: made from the page modules that are there."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from app.platform.actor import Actor
from app.portal import pages


@dataclass(frozen=True)
class Entry:
    """A page in the menu, for those who have its scope."""

    title: str
    url: str
    order: int
    group: str = ""
    """Entries of one group stand together under its name."""
    scope: str | None = "jobs:read"

    def open_to(self, actor: Actor) -> bool:
        """Tell whether somebody may open the page."""
        return self.scope is None or bool({self.scope, "admin"} & actor.scopes)

    def leads_to(self, path: str) -> bool:
        """Tell whether a path is this page, or lies below it."""
        return path == self.url or path.startswith(f"{self.url}/")


def discover() -> tuple[list[APIRouter], list[Entry]]:
    """Return the routers and the menu entries of every page module; raises TypeError on one without a router."""
    routers, entries = [], []
    for info in pkgutil.iter_modules(pages.__path__, prefix=f"{pages.__name__}."):
        module = importlib.import_module(info.name)
        router, entry = getattr(module, "router", None), getattr(module, "NAVIGATION", None)
        if not isinstance(router, APIRouter):
            raise TypeError(f"{info.name} has no `router`")
        routers.append(router)
        entries += [entry] if isinstance(entry, Entry) else []
    return routers, sorted(entries, key=lambda entry: entry.order)


def here(entries: Sequence[Entry], path: str) -> Entry | None:
    """Return the entry that a path belongs to: the longest that leads to it."""
    return max((entry for entry in entries if entry.leads_to(path)), key=lambda entry: len(entry.url), default=None)
