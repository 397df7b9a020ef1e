"""Whether the service can take work: its parts are asked off the event loop, once a second, and not for long."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from app.db.migrate import is_current
from app.services.resources import Resources
from app.settings import Settings
from espalier.errors import Problem

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""How long a part may take to answer; one that hangs is asked again when it has come back."""

LEAST_FREE_BYTES = 64 * 2**20
"""Of a disk that the service writes to, for rows, events and wake-up signals; what a job lacks, it says itself."""

log = structlog.get_logger(__name__)


class DiskUnusable(Exception):
    """A disk takes nothing more; the text names no path."""


class Readiness:
    """The state of database, broker, store and the disks under them, checked a moment ago."""

    def __init__(self, resources: Resources) -> None:
        self.checks: dict[str, Callable[[], None]] = {
            "database": lambda: _check_database(resources),
            "broker": resources.notifier.check,
            "store": resources.store.check,
        }
        if folders := _written(resources.settings):
            self.checks["disk"] = lambda: _check_disks(folders)
        self.parts = tuple(self.checks)
        # Threads of its own: those of requests may all be waiting for what is asked about here.
        self._threads = ThreadPoolExecutor(len(self.checks), "readiness")
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._checking: asyncio.Task[list[Problem]] | None = None
        self._seen_at = float("-inf")

    async def problems(self) -> list[Problem]:
        """Return what keeps the service from working, one per part."""
        if self._checking is None or (self._checking.done() and time.monotonic() - self._seen_at > FRESH_SECONDS):
            self._checking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._checking)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_all(self) -> list[Problem]:
        problems = await asyncio.gather(*(self._ask(name) for name in self.parts))
        self._seen_at = time.monotonic()
        return [problem for problem in problems if problem is not None]

    async def _ask(self, name: str) -> Problem | None:
        if name not in self._asked or self._asked[name].done():
            self._asked[name] = asyncio.get_running_loop().run_in_executor(self._threads, self.checks[name])
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(self._asked[name])
        except Exception as error:  # noqa: BLE001 - whatever keeps a port from working makes the service unready
            # What the part said is for the operator's log; the answer is read by anybody.
            log.warning(
                "not ready", part=name, error=type(error).__name__, detail=getattr(error, "detail", None) or str(error)
            )
            why = str(error) if isinstance(error, DiskUnusable) else type(error).__name__
            return Problem("", name, f"The {name} is not usable: {why}.")
        return None


def _check_database(resources: Resources) -> None:
    if not is_current(resources.database):
        raise ValueError("migrations are missing")


def _written(settings: Settings) -> dict[str, Path]:
    """Return the folders that the service writes to; in production, workers have machines of their own."""
    of_workers = frozenset({"cache", "scratch"} if settings.mode == "production" else ())
    return {what: folder for what, folder in settings.folders.items() if what not in of_workers}


def _check_disks(folders: Mapping[str, Path]) -> None:
    lacking: dict[str, list[str]] = {}
    for what, folder in folders.items():
        if why := _fault(next(there for there in (folder, *folder.parents) if there.exists())):
            lacking.setdefault(why, []).append(what)
    if lacking:
        raise DiskUnusable("; ".join(f"{why} for {' and '.join(what)}" for why, what in lacking.items()))


def _fault(folder: Path) -> str | None:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        return "nothing can be written"
    if disk.f_files and not disk.f_favail:  # some file systems have no such bound
        return "no further file can be made"
    return f"{free >> 20} MiB are left" if free < LEAST_FREE_BYTES else None
