"""The front holds what nothing beats, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.services.sweeps.pareto import pareto_front


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other


@given(st.lists(st.tuples(st.integers(-3, 3).map(float), st.integers(-3, 3).map(float)), max_size=12))
def test_the_front_is_what_the_definition_says(costs: list[tuple[float, float]]) -> None:
    assert pareto_front(costs) == [not any(_beats(other, cost) for other in costs) for cost in costs]


def test_equal_results_are_both_on_the_front() -> None:
    assert pareto_front([(1.0, 2.0), (1.0, 2.0), (2.0, 2.0), (0.5, 9.0)]) == [True, True, False, True]
