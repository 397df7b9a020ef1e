"""Learning rates: the one schedule of the recovery steps."""

from __future__ import annotations

WARM_UP = 0.1
"""Share of the steps that warm up, as in the papers."""


def linear(step: int, *, steps: int) -> float:
    """The share of the top rate at one of `steps` steps: a linear warm-up, then linearly towards zero."""
    warm_up = int(WARM_UP * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return (steps - step) / (steps - warm_up)
