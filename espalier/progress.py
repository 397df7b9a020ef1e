"""Steps of this process: counted where work is done, so that a supervisor can tell slow work from work that hangs.

A GPU whose kernel never ends keeps the host's thread spinning: time of a CPU is no sign of progress there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class _Steps:
    """A counter that every thread may raise; one step more or less is no matter."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.count = 0

    def add(self) -> None:
        self.count = next(self._numbers)


_STEPS = _Steps()


def count_step() -> None:
    """Count a step: a batch, a matrix, an iteration, a tensor of a file; each ends within seconds or minutes."""
    _STEPS.add()


def counted(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, and count a step with each."""
    for item in items:
        _STEPS.add()
        yield item


def steps_counted() -> int:
    """Return how many steps were counted so far."""
    return _STEPS.count
