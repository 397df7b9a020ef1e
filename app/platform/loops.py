"""Loops that run until they are stopped: whatever a round raises, the next one runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.errors import StorageError

OUTAGE: Final = (OperationalError, InterfaceError, PoolTimeout)
"""The database is out of reach, and comes back."""
LONGEST_PAUSE_SECONDS: Final = 5.0
"""Between rounds that break one after the other."""
LONGEST_DELAY_SECONDS: Final = 3600.0
MOST_ATTEMPTS: Final = 10
"""Attempts after which an item that raises is given up."""
_T = TypeVar("_T")

log = structlog.get_logger(__name__)


def run(
    name: str,
    stop: threading.Event,
    work: Callable[[], object],
    *,
    idle_seconds: float,
    longest_seconds: float = LONGEST_PAUSE_SECONDS,
    pause: Callable[[float], object] | None = None,
) -> None:
    """Call `work` until `stop` is set: again at once where it returns something true, else after a pause.

    `pause` waits in the place of `stop`, where something else may wake the loop up too.
    """
    broken = 0
    while not stop.is_set():
        try:
            again, broken = bool(work()), 0
        except BaseException as error:  # noqa: BLE001 - a loop that ends is missed by nobody until it is too late
            note(name, error)
            again, broken = False, broken + 1
        if not again:
            (pause or stop.wait)(min(idle_seconds * 2 ** min(broken, 10), max(longest_seconds, idle_seconds)))


class Threads:
    """Loops that run side by side, each in a thread of its name, until one event stops them all.

    A process that ends does not wait for them, unless it joins them.
    """

    def __init__(self, stop: threading.Event, works: Mapping[str, Callable[[threading.Event], object]]) -> None:
        self._threads = [
            threading.Thread(target=work, args=(stop,), name=name, daemon=True) for name, work in works.items()
        ]

    def start(self) -> Threads:
        """Let all of them begin."""
        for thread in self._threads:
            thread.start()
        return self

    def join(self, seconds: float | None = None) -> None:
        """Wait until all of them have ended, or so long, together."""
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0.0))


def each(name: str, items: Iterable[_T], work: Callable[[_T], object], *, spoiled: Callable[[_T], object]) -> None:
    """Work on every item; one that raises anything is handed to `spoiled`, and the others are worked on."""
    for item in items:
        try:
            work(item)
        except BaseException as error:  # noqa: BLE001
            note(name, error)
            try:
                spoiled(item)
            except BaseException as worse:  # noqa: BLE001 - it comes up again
                note(name, worse)


def note(name: str, error: BaseException) -> None:
    """Write down what broke a round or an item; a request to end the process goes on."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, OUTAGE):
        log.warning("the database is out of reach", loop=name, error=type(error).__name__)
    elif isinstance(error, StorageError):
        log.warning("the store is out of reach", loop=name, error=error.detail)
    else:
        log.error("a round broke", loop=name, error=type(error).__name__, exc_info=error)


def delay_seconds(attempts: int) -> float:
    """Return the pause after so many attempts at an item: doubling, an hour at most."""
    return float(min(5.0 * 2 ** min(attempts, 20), LONGEST_DELAY_SECONDS))
