"""The ladder of learning rates: where it goes, and that it ends with the best inside."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from espalier.retrain import rate_grid


def _climb(loss: Callable[[int], float], *, first: int, max_trials: int) -> dict[int, float]:
    losses: dict[int, float] = {}
    while len(losses) < max_trials and (index := rate_grid.next_index(losses, first=first)) is not None:
        losses[index] = loss(index)
    return losses


def test_two_rungs_are_a_factor_of_ten() -> None:
    assert [rate_grid.factor(index) for index in range(-3, 3)] == [0.0316, 0.1, 0.316, 1.0, 3.16, 10.0]


@pytest.mark.parametrize(("valley", "trials"), [(0, 3), (1, 3), (-1, 4), (3, 5), (-4, 7)])
def test_the_best_ends_inside(valley: int, trials: int) -> None:
    losses = _climb(lambda index: (index - valley) ** 2, first=0, max_trials=20)
    assert rate_grid.best(losses) == valley
    assert {valley - 1, valley + 1} <= losses.keys()
    assert len(losses) == trials


def test_a_rate_that_diverges_sends_the_search_down() -> None:
    losses = _climb(lambda index: math.inf if index > -3 else -index, first=0, max_trials=20)
    assert list(losses) == [0, -1, -2, -3, -4]
    assert rate_grid.best(losses) == -3
    assert rate_grid.best({0: math.inf, 1: math.inf}) == 0


def test_the_lower_rung_wins_ties_and_most_is_kept() -> None:
    losses = _climb(lambda _: 1.0, first=0, max_trials=20)
    assert rate_grid.best(losses) == min(losses)
    assert len(_climb(lambda index: -index, first=0, max_trials=5)) == 5


# A Llama of 2.6 M parameters after wanda 70 %, batches of 4 x 128 tokens, held-out loss 4.2008 at the start: what
# trials of 8 steps reach on every rung, and the rung on which 80 steps end best.
MEASURED = [
    # all weights: 80 steps end at 3.992, 3.938, 4.019 and 4.422; trials alone would have taken rung 0
    ({-2: 4.1380, -1: 4.0828, 0: 4.0663, 1: 4.3329}, -1),
    # MaskLoRA: 4.018, 3.944, 3.913, 4.022
    ({-2: 4.1573, -1: 4.1045, 0: 4.0456, 1: 4.1153}, 0),
    # norms: 4.130, 4.062, 4.001, 3.974
    ({-2: 4.1893, -1: 4.1680, 0: 4.1227, 1: 4.0699}, 1),
]


@pytest.mark.parametrize(("trials", "best"), MEASURED, ids=["full", "mask_lora", "norms"])
def test_short_trials_tell_the_rate_of_a_long_training(trials: dict[int, float], best: int) -> None:
    assert rate_grid.chosen(trials, start=4.2008) == best


def test_where_nothing_gains_the_best_is_taken() -> None:
    assert rate_grid.chosen({0: 3.2, -1: 3.1}, start=3.0) == -1
    assert rate_grid.chosen({0: math.inf, -1: math.inf}, start=3.0) == -1
    assert rate_grid.chosen({0: math.inf, -1: 5.0}, start=math.inf) == -1
