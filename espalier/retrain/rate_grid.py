"""A search along a geometric ladder of learning rates: from a middle rung up or down until the best lies inside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

RATIO: Final = math.sqrt(10)
"""From one rung to the next; steps much finer than that are within the noise of a short trial."""

MIN_GAIN_FRACTION: Final = 0.85
"""Share of the best gain with which a lower rung is taken: a long training bears less than a short trial, about one
over the root of its length, so that the best of short trials is often one rung too high."""


def factor(index: int) -> float:
    """What a rung multiplies rates with: 1 on rung 0, ten times as much two rungs above."""
    return float(f"{RATIO**index:.3g}")


def best(losses: Mapping[int, float]) -> int:
    """The rung with the lowest loss; the lower one wins ties, so that it is the lowest where no trial gave a number."""
    return min(losses, key=lambda index: (losses[index], index))


def next_index(losses: Mapping[int, float], *, first: int) -> int | None:
    """The rung to try next, given the loss of every one so far (infinite: diverged); None once the best is inside."""
    if not losses:
        return first
    top = best(losses)
    wanted = (top + 1, top - 1) if math.isfinite(losses[top]) else (top - 1,)
    return next((index for index in wanted if index not in losses), None)


def chosen(losses: Mapping[int, float], *, start: float) -> int:
    """The rung for the long training: the lowest that gains nearly as much over the loss at the start as the best."""
    gain = start - losses[best(losses)]
    if not gain > 0:
        return best(losses)
    return min(index for index, loss in losses.items() if start - loss >= MIN_GAIN_FRACTION * gain)
