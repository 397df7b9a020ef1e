"""One exact budget over many matrices, against sorting all scores at once."""

from __future__ import annotations

import pytest
import torch

from espalier.errors import NumericalError
from espalier.methods.allocation import counts_below_threshold
from espalier.methods.base import LayerProblem
from espalier.methods.criteria.magnitude import Magnitude
from espalier.model.numerics import generator
from espalier.prune.selection import score
from espalier.stream.readout import Readout

SHAPES = {"a": (7, 11), "b": (16, 5), "c": (3, 40)}


def _by_sorting(scores: dict[str, torch.Tensor], num_pruned: int) -> dict[str, int]:
    flat = torch.cat([item.flatten() for item in scores.values()])
    owners = [name for name, item in scores.items() for _ in range(item.numel())]
    order = flat.sort(stable=True).indices[:num_pruned].tolist()
    return {name: sum(owners[index] == name for index in order) for name in scores}


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("steps", [0, 5])  # 5: scores in 5 steps, so that the threshold falls into a tie
def test_shares_equal_those_of_one_sorted_list(sparsity: float, steps: int) -> None:
    draws = generator(0, "scores")
    scores = {name: torch.rand(shape, generator=draws) for name, shape in SHAPES.items()}
    if steps:
        scores = {name: (item * steps).floor() for name, item in scores.items()}
    num_pruned = round(sparsity * sum(item.numel() for item in scores.values()))
    shares = counts_below_threshold(scores.items, num_pruned=num_pruned)
    assert shares == _by_sorting(scores, num_pruned)


def test_weights_that_are_not_finite_name_the_module() -> None:
    weight_OI = torch.tensor([[1.0, float("inf")]])
    with pytest.raises(NumericalError) as caught, Readout() as readout:
        score(Magnitude(), LayerProblem(weight_OI, {}, generator(0)), module="m.fc1", readout=readout)
    assert caught.value.module == "m.fc1"
