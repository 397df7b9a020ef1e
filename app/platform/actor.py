"""Who acts: set once per request, read wherever a change is written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_PROJECT = "prj_default"
"""The project of the embedded mode, and of the operators; the first migration makes it."""


@dataclass(frozen=True)
class Actor:
    """Somebody who may do things to one project."""

    type: Literal["api_key", "user", "hook"]
    id: str
    project_id: str
    scopes: frozenset[str]
    limits: dict[str, Any] = field(default_factory=dict)
    """The project's quotas, null for none, as they were at most five seconds ago."""
    request_id: str | None = None

    @property
    def is_operator(self) -> bool:
        """Whether the actor administers all projects: an admin of the default project."""
        return "admin" in self.scopes and self.project_id == DEFAULT_PROJECT

    def document(self) -> dict[str, Any]:
        """Return the actor as rows store it."""
        return {"type": self.type, "id": self.id}


LOCAL = Actor("user", "local", DEFAULT_PROJECT, frozenset({"admin"}))
"""Whoever reaches the loopback of an embedded installation."""
_CURRENT: ContextVar[Actor | None] = ContextVar("actor", default=None)


def current() -> Actor | None:
    """Return who acts here; None in workers, which act for the service."""
    return _CURRENT.get()


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Let everything in the block be done by this actor."""
    token = _CURRENT.set(actor)
    try:
        yield
    finally:
        _CURRENT.reset(token)
