"""Memory of a worker's cards after a job: whether the driver has taken it back from a process that has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import structlog

from workers.processes import cards
from workers.processes.cards import Card

RELEASE_SECONDS: Final = 60.0
"""What the driver may take to tear down the context of a process that has ended: 100 GB of pinned memory take long."""
POLL_SECONDS: Final = 1.0
"""How long the worker loop asks at a stretch: between, its heartbeat is due."""
PAUSE_SECONDS: Final = 0.1
SLACK_BYTES: Final = 2**30
"""What a card may hold more than before: a display, or a probe that has just ended."""

log = structlog.get_logger(__name__)


class Release:
    """Waits until a process that computed on some cards holds nothing of them."""

    def __init__(self, on: Sequence[Card]) -> None:
        self._cards = on
        self._free_by = 0.0
        self._used_before: int | None = None
        """What the cards held when no process of ours was on them."""
        self.pid: int | None = None
        """The process that is waited for."""

    def note_idle(self) -> None:
        """Measure what the cards hold while no process of ours is on them; raises NoCard."""
        self._used_before = self._used()

    def begin(self, pid: int) -> None:
        """Wait for a process from now on."""
        self.pid, self._free_by = pid, time.monotonic() + RELEASE_SECONDS

    def poll(self) -> bool:
        """Ask for a moment whether the cards are free; False where the process stays on them for good.

        A container's processes have other numbers for the driver than here, or none: there the memory decides, and what
        is never given back is somebody else's. Raises NoCard where the driver does not answer.
        """
        until = time.monotonic() + POLL_SECONDS
        while self.pid is not None and not self._is_free(self.pid):
            now = time.monotonic()
            if now > self._free_by:
                return self._give_up(self.pid)
            if now > until:
                return True
            time.sleep(PAUSE_SECONDS)
        self.pid = None
        return True

    def _is_free(self, pid: int) -> bool:
        return not self._listed(pid) and (self._used() or 0) <= (self._used_before or 0) + SLACK_BYTES

    def _give_up(self, pid: int) -> bool:
        self.pid, listed = None, self._listed(pid)
        log.warning("the device's memory is not given back", pid=pid, listed=listed, seconds=RELEASE_SECONDS)
        if not listed:
            self.note_idle()
        return not listed

    def _listed(self, pid: int) -> bool:
        return any(pid in cards.pids_on(card) for card in self._cards)

    def _used(self) -> int | None:
        """Return the bytes that the cards hold; None where nvidia-smi does not know, as of a slice."""
        used = [cards.used_bytes(card) for card in self._cards]
        return sum(each for each in used if each is not None) if any(each is not None for each in used) else None
