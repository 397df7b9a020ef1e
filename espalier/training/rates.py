"""Learning rates over the steps of a recovery, as fractions of the top rate.

`slr` and `clr` replay a dense training's schedule; a training is taken to have been the papers' (arXiv 2111.00843):
the rate divided by ten after a half and after three quarters.
"""

from __future__ import annotations

import math
from typing import Final

from espalier.recipe.steps.retrain import Schedule

WARM_UP = 0.1
"""Fraction of the steps that warm up, as in the papers."""
DROPS: Final = (0.5, 0.75)
"""Fractions of the steps after which a stepped schedule divides the rate by ten."""
MIN_FRACTION: Final = 0.01
"""The smallest fraction that such a schedule reaches."""
ALLR_FLOOR: Final = 0.05
"""The smallest start of `allr`; the paper's is the length of retraining over that of dense training, unknown here."""


def linear(step: int, *, steps: int) -> float:
    """Return the fraction of the top rate at one of `steps` steps: a linear warm-up, then linear decay."""
    warm_up = int(WARM_UP * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return (steps - step) / (steps - warm_up)


def rate_fraction(schedule: Schedule, step: int, *, steps: int, start: float = 1.0) -> float:
    """Return the fraction of the top rate at one of `steps` steps; `start` scales all of `allr`."""
    if schedule == "linear":
        return linear(step, steps=steps)
    warm_up = int(WARM_UP * steps)
    if step < warm_up:
        rise = (step + 1) / (warm_up + 1)
        # BIMP's schedules rise along a half cosine.
        rising = rise if schedule in {"cosine", "constant"} else (1 - math.cos(math.pi * rise)) / 2
        return start * rising if schedule == "allr" else rising
    done = (step - warm_up) / (steps - warm_up)
    return start * (1 - done) if schedule == "allr" else _after_warm_up(schedule, done)


def _after_warm_up(schedule: Schedule, done: float) -> float:
    fall = (1 + math.cos(math.pi * done)) / 2
    shapes = {
        "constant": 1.0,
        "cosine": fall,
        "slr": 0.1 ** sum(done >= drop for drop in DROPS),
        "clr": MIN_FRACTION + (1 - MIN_FRACTION) * fall,
        "llr": 1 - done,
    }
    return shapes[schedule]


def allr_start(distance: float, pruned: float) -> float:
    """Return the fraction of the top rate at which ALLR starts: clip(d / sqrt(p), floor, 1).

    distance: relative L2 norm that pruning took away; pruned: fraction of the remaining weights that it removed. Their
    ratio is 1 where the pruned weights were of average size and near 0 where they were tiny.
    """
    ratio = distance / math.sqrt(pruned) if pruned > 0 else 0.0
    return min(max(ratio, ALLR_FLOOR), 1.0)


def relative_drop(dense_square: float, pruned_square: float) -> float:
    """Compute sqrt(| ||w||^2 - ||w pruned||^2 |) / ||w|| from the two squared norms."""
    return math.sqrt(abs(dense_square - pruned_square) / dense_square) if dense_square > 0 else 0.0
