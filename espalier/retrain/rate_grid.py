"""Search over a geometric grid of learning rates, from the middle up or down until the best lies inside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

RATIO: Final = math.sqrt(10)
"""Ratio of neighbouring rates; steps much finer than that are within the noise of a short trial."""

MIN_GAIN_FRACTION: Final = 0.85
"""Fraction of the best gain with which a lower rate is taken: a long training bears a lower rate than a short trial, by
about one over the root of its length, so that the best of short trials is often one index too high."""


def factor(index: int) -> float:
    """Return the factor of a grid point: 1 at index 0, ten times as much two indices above."""
    return float(f"{RATIO**index:.3g}")


def best(losses: Mapping[int, float]) -> int:
    """Return the index with the lowest loss; the lower one wins ties, also where no trial gave a number."""
    return min(losses, key=lambda index: (losses[index], index))


def next_index(losses: Mapping[int, float], *, first: int) -> int | None:
    """Return the index to try next, given the losses so far (infinite: diverged); None once the best lies inside."""
    if not losses:
        return first
    top = best(losses)
    wanted = (top + 1, top - 1) if math.isfinite(losses[top]) else (top - 1,)
    return next((index for index in wanted if index not in losses), None)


def chosen(losses: Mapping[int, float], *, start: float) -> int:
    """Choose the index for the long training: the lowest whose gain over the start is nearly that of the best."""
    gain = start - losses[best(losses)]
    if not gain > 0:
        return best(losses)
    return min(index for index, loss in losses.items() if start - loss >= MIN_GAIN_FRACTION * gain)
