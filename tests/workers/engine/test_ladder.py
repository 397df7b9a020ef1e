"""The ladder of learning rates: where it goes, and that it ends with the best inside."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from workers.engine import ladder


def _climb(loss: Callable[[int], float], *, first: int, most: int) -> dict[int, float]:
    losses: dict[int, float] = {}
    while len(losses) < most and (rung := ladder.next_rung(losses, first=first)) is not None:
        losses[rung] = loss(rung)
    return losses


def test_two_rungs_are_a_factor_of_ten() -> None:
    assert [ladder.factor(rung) for rung in range(-3, 3)] == [0.0316, 0.1, 0.316, 1.0, 3.16, 10.0]


@pytest.mark.parametrize(("valley", "trials"), [(0, 3), (1, 3), (-1, 4), (3, 5), (-4, 7)])
def test_the_best_ends_inside(valley: int, trials: int) -> None:
    losses = _climb(lambda rung: (rung - valley) ** 2, first=0, most=20)
    assert ladder.best(losses) == valley
    assert {valley - 1, valley + 1} <= losses.keys()
    assert len(losses) == trials


def test_a_rate_that_diverges_sends_the_search_down() -> None:
    losses = _climb(lambda rung: math.inf if rung > -3 else -rung, first=0, most=20)
    assert list(losses) == [0, -1, -2, -3, -4]
    assert ladder.best(losses) == -3
    assert ladder.best({0: math.inf, 1: math.inf}) == 0


def test_the_lower_rung_wins_ties_and_most_is_kept() -> None:
    losses = _climb(lambda _: 1.0, first=0, most=20)
    assert ladder.best(losses) == min(losses)
    assert len(_climb(lambda rung: -rung, first=0, most=5)) == 5


def test_a_long_training_takes_the_lower_of_two_that_are_nearly_equal() -> None:
    # All of a small Llama after wanda 70 %: trials of 8 steps, and where 80 steps end: 3.94 on rung -1, 4.02 on rung 0.
    trials = {-2: 4.1380, -1: 4.0828, 0: 4.0663, 1: 4.3329}
    assert ladder.chosen(trials, start=4.2008) == -1
    assert ladder.chosen({**trials, -1: 4.1}, start=4.2008) == 0


def test_where_nothing_gains_the_best_is_taken() -> None:
    assert ladder.chosen({0: 3.2, -1: 3.1}, start=3.0) == -1
    assert ladder.chosen({0: math.inf, -1: math.inf}, start=3.0) == -1
    assert ladder.chosen({0: math.inf, -1: 5.0}, start=math.inf) == -1
