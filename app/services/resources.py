"""What every service function works with: one object per process, made at start."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.db.commits import GroupCommit
from app.db.session import Database
from app.platform.fairness import ProjectThreads
from app.queue import WorkNotifier
from app.settings import Settings
from app.storage.base import ObjectStore


@dataclass(frozen=True)
class Resources:
    """Settings, database, object store, notifier of workers, and group commit."""

    settings: Settings
    database: Database
    store: ObjectStore
    notifier: WorkNotifier
    commits: GroupCommit
    lookups: ProjectThreads = field(default_factory=lambda: ProjectThreads(16, per_project=4, waiting=32))
    """For calls that ask the Hub."""
    closings: ProjectThreads = field(default_factory=lambda: ProjectThreads(8, per_project=2, waiting=32))
    """For looks at uploads, each of which may copy hundreds of MiB out of the store."""
