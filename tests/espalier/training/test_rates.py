"""Schedules by the formulas of their paper."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from espalier.recipe.steps.retrain import Schedule
from espalier.training import rates

STEPS = 100


def _shape(schedule: Schedule, **options: float) -> list[float]:
    return [rates.rate_fraction(schedule, step, steps=STEPS, **options) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "slr", "clr", "llr", "allr"])
def test_every_schedule_warms_up_over_a_tenth_and_never_rises_again(schedule: Schedule) -> None:
    shape = _shape(schedule)
    assert shape[10] == max(shape) == 1.0
    assert all(0 < a < b for a, b in pairwise(shape[:11]))
    assert all(a >= b >= 0 for a, b in pairwise(shape[10:]))


def test_shapes_after_the_warm_up() -> None:
    done = [(step - 10) / 90 for step in range(10, STEPS)]
    assert _shape("linear")[10:] == pytest.approx([1 - x for x in done])
    assert _shape("llr")[10:] == pytest.approx([1 - x for x in done])
    assert _shape("cosine")[10:] == pytest.approx([(1 + math.cos(math.pi * x)) / 2 for x in done])
    assert _shape("clr")[10:] == pytest.approx([0.01 + 0.99 * (1 + math.cos(math.pi * x)) / 2 for x in done])
    assert _shape("constant")[10:] == [1.0] * 90
    assert _shape("slr")[10:] == pytest.approx([1.0 if x < 0.5 else 0.1 if x < 0.75 else 0.01 for x in done])
    assert _shape("allr", start=0.3) == pytest.approx([0.3 * rate_fraction for rate_fraction in _shape("llr")])
    half_cosine = [(1 - math.cos(math.pi * (step + 1) / 11)) / 2 for step in range(10)]
    assert _shape("llr")[:10] == pytest.approx(half_cosine)


def test_one_step_is_taken_at_the_top_rate() -> None:
    for schedule in ("linear", "cosine", "constant", "slr", "clr", "llr", "allr"):
        assert rates.rate_fraction(schedule, 0, steps=1) == 1.0


def test_allr_starts_by_the_distance() -> None:
    # d = 0.1, p = 0.36: 0.1 / 0.6 of the top rate
    assert rates.allr_start(0.1, 0.36) == pytest.approx(1 / 6)
    assert rates.allr_start(0.9, 0.36) == 1.0
    assert rates.allr_start(0.0, 0.0) == rates.allr_start(1e-9, 0.5) == rates.ALLR_FLOOR


def test_pruning_average_weights_starts_at_the_top() -> None:
    weight = torch.randn(400, 400, dtype=torch.float64)
    random = weight * (torch.rand(400, 400) < 0.5)
    smallest = weight * (weight.abs() >= weight.abs().median())
    starts = []
    for pruned in (random, smallest):
        distance = rates.relative_drop(float(weight.square().sum()), float(pruned.square().sum()))
        assert distance == pytest.approx(float((weight - pruned).norm() / weight.norm()))
        starts.append(rates.allr_start(distance, 0.5))
    assert starts[0] == pytest.approx(1.0, abs=0.01)
    assert starts[1] < 0.5
