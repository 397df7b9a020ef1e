"""The menu: made from the page modules that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from fastapi import APIRouter

from app.platform.actor import Actor
from app.platform.discovery import offered


@dataclass(frozen=True)
class MenuEntry:
    """A page in the menu, and the scope that it needs."""

    title: str
    url: str
    order: int
    group: str = ""
    """Entries of one group stand together under its name."""
    scope: str | None = "jobs:read"

    def open_to(self, actor: Actor) -> bool:
        """Tell whether an actor may open the page."""
        return self.scope is None or bool({self.scope, "admin"} & actor.scopes)

    def leads_to(self, path: str) -> bool:
        """Tell whether a path is this page, or lies below it."""
        return path == self.url or path.startswith(f"{self.url}/")


def discover(pages: ModuleType) -> tuple[list[APIRouter], list[MenuEntry]]:
    """Return the routers and menu entries of every module of a package; raises TypeError on one without a router."""
    modules = offered(pages, "router", APIRouter)
    entries = [entry for module, _ in modules if isinstance(entry := getattr(module, "NAVIGATION", None), MenuEntry)]
    return [router for _, router in modules], sorted(entries, key=lambda entry: entry.order)


def here(entries: Sequence[MenuEntry], path: str) -> MenuEntry | None:
    """Return the entry that a path belongs to: the longest that leads to it."""
    return max((entry for entry in entries if entry.leads_to(path)), key=lambda entry: len(entry.url), default=None)
