"""Whether the service can take work: its parts are asked off the event loop, once a second, and not for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from app.db.migrate import is_current
from app.errors import Problem
from app.services.resources import Resources

FRESH_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""How long a part may take to answer; one that hangs is asked again when it has come back."""

log = structlog.get_logger(__name__)


class Readiness:
    """What database, broker and store said a moment ago."""

    def __init__(self, resources: Resources) -> None:
        self._checks: dict[str, Callable[[], None]] = {
            "database": lambda: _check_database(resources),
            "broker": resources.doorbell.check,
            "store": resources.store.check,
        }
        self.parts = tuple(self._checks)
        # Threads of its own: those of requests may all be waiting for what is asked about here.
        self._threads = ThreadPoolExecutor(len(self._checks), "readiness")
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._look: asyncio.Task[list[Problem]] | None = None
        self._seen_at = float("-inf")

    async def problems(self) -> list[Problem]:
        """Return what keeps the service from working, one per part."""
        if self._look is None or (self._look.done() and time.monotonic() - self._seen_at > FRESH_SECONDS):
            self._look = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._look)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_all(self) -> list[Problem]:
        found = await asyncio.gather(*(self._ask(name) for name in self.parts))
        self._seen_at = time.monotonic()
        return [problem for problem in found if problem is not None]

    async def _ask(self, name: str) -> Problem | None:
        if name not in self._asked or self._asked[name].done():
            self._asked[name] = asyncio.get_running_loop().run_in_executor(self._threads, self._checks[name])
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.shield(self._asked[name])
        except Exception as error:  # noqa: BLE001 - whatever keeps a port from working makes the service unready
            # What the part said is for the operator's log; the answer is read by anybody.
            log.warning(
                "not ready", part=name, error=type(error).__name__, detail=getattr(error, "detail", None) or str(error)
            )
            return Problem("", name, f"The {name} is not usable: {type(error).__name__}.")
        return None


def _check_database(resources: Resources) -> None:
    if not is_current(resources.database):
        raise ValueError("migrations are missing")
