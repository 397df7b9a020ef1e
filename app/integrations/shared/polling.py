"""A registry that is asked for what its deliveries may have lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from app.integrations.shared.hooks import Receiver, RegistryEvent


class RegistrySilent(Exception):
    """The registry could not be read; the text says why, and holds no secret."""


class Holdings(ABC):
    """What a registry held at one look."""

    @abstractmethod
    def new_events(self, cursor: Mapping[str, Any]) -> Iterable[RegistryEvent]:
        """Return what is new since the look that left a cursor, oldest first; an empty one knows of no look."""

    @abstractmethod
    def cursor(self, cursor: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the next look has to know in the place of a cursor."""


class PolledReceiver(Receiver, ABC):
    """A registry whose deliveries can be lost; it is read where the operator says where it is, in its `Login`."""

    @abstractmethod
    def poll(self, login: Mapping[str, str], cursor: Mapping[str, Any], *, made_at: datetime) -> Holdings:
        """Read the registry as a project may; what is older than `made_at` is no news. Raises RegistrySilent."""
