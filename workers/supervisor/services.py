"""What a worker loop works with: database, store, settings, commands and control groups."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.db.session import Database
from app.settings import Settings
from app.storage.base import ObjectStore
from workers.processes.groups import ControlGroups
from workers.processes.process import Commands


@dataclass(frozen=True)
class Services:
    """What a worker works with."""

    database: Database
    store: ObjectStore
    settings: Settings
    commands: Commands = field(default_factory=Commands)
    groups: ControlGroups | None = None
    """Of the children; None where the worker may make none."""
