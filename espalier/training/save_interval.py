"""How often the state of a training is written: seldom enough that it costs little."""

from __future__ import annotations

import time
from typing import Final

SAVE_SECONDS: Final = 30.0
"""Seconds between training states, at least: the work that a killed run loses."""
COST_RATIO: Final = 10.0
"""Of the seconds between two states to those that the last one took, at least."""


class SaveInterval:
    """When the next state is due, from when the last one was written and what it took; a thread may end it."""

    def __init__(self) -> None:
        self._began: float | None = None
        """Of the state that is being written; None: none is."""
        self._ended = time.monotonic()
        self._cost = 0.0

    def is_due(self) -> bool:
        """Tell whether another state is to be written now."""
        now, began = time.monotonic(), self._began
        since, cost = (self._ended, self._cost) if began is None else (began, now - began)
        return now - since >= max(SAVE_SECONDS, COST_RATIO * cost)

    def begin(self) -> None:
        """Note that a state is being taken, and then written."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Note that it is there."""
        assert self._began is not None
        self._ended = time.monotonic()
        self._cost = self._ended - self._began
        self._began = None
