"""Polling of registries whose webhook deliveries may have been lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.integrations.shared.hooks import Receiver, RegistryEvent


class RegistrySilent(Exception):
    """The registry could not be read; the text says why, and holds no secret."""


class Holdings(ABC):
    """The contents of a registry at one poll."""

    @abstractmethod
    def new_events(self, cursor: Mapping[str, Any]) -> Iterable[RegistryEvent]:
        """Return the events since the poll that left a cursor, oldest first; an empty cursor is that of no poll."""

    @abstractmethod
    def cursor(self, cursor: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cursor for the next poll."""


class PolledReceiver(Receiver, ABC):
    """A registry whose deliveries can be lost; it is read where the operator says where it is, in its `Login`."""

    @abstractmethod
    def poll(self, login: Mapping[str, str], cursor: Mapping[str, Any], *, made_at: datetime) -> Holdings:
        """Read the registry as a project may; what is older than `made_at` is not new. Raises RegistrySilent."""
