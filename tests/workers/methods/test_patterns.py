"""Exact counts and ties of the patterns, from tables small enough to check by eye."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from workers.methods.patterns.nm import NOfM
from workers.methods.patterns.unstructured import Unstructured


@pytest.mark.parametrize(
    ("sparsity", "pruned"),
    [
        (0.0, 0),
        (0.29, 29),  # int(100 * 0.29) would be 28
        (0.5, 50),
        (0.999, 100),  # rounds to the whole row
    ],
)
def test_every_row_loses_exactly_the_rounded_share(sparsity: float, pruned: int) -> None:
    mask_OI = Unstructured(scope="row").keep(torch.rand(7, 100), sparsity=sparsity)
    assert (~mask_OI).sum(dim=1).tolist() == [pruned] * 7


def test_the_matrix_scope_counts_over_the_matrix() -> None:
    score_OI = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    mask_OI = Unstructured(scope="matrix").keep(score_OI, sparsity=0.5)
    assert mask_OI.tolist() == [[False] * 4, [True] * 4]


def test_matrix_wide_ties_go_by_input_then_by_row() -> None:
    score_OI = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    mask_OI = Unstructured(scope="matrix").keep(score_OI, sparsity=2 / 6)
    assert mask_OI.tolist() == [[False, False, True], [True, True, True]]


def test_many_ties_do_not_prune_one_weight_too_many() -> None:
    coarse_OI = torch.randint(0, 4, (33, 65)).float()
    for scope in ("row", "matrix"):
        mask_OI = Unstructured(scope=scope).keep(coarse_OI, sparsity=0.6)
        expected = 33 * round(0.6 * 65) if scope == "row" else round(0.6 * 33 * 65)
        assert int((~mask_OI).sum()) == expected


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (4, 8), (1, 2)])
def test_n_are_kept_of_every_m_and_they_are_the_highest(n: int, m: int) -> None:
    score_OI = torch.rand(5, 16)
    mask_OI = NOfM(n=n, m=m).keep(score_OI, sparsity=1 - n / m)
    groups, scores = mask_OI.view(5, -1, m), score_OI.view(5, -1, m)
    assert (groups.sum(dim=2) == n).all()
    assert scores.masked_fill(~groups, 2).amin(dim=2).gt(scores.masked_fill(groups, -1).amax(dim=2)).all()


def test_inputs_that_do_not_divide_are_refused_by_number() -> None:
    assert NOfM(n=2, m=4).refusal(16) is None
    assert NOfM(n=2, m=4).refusal(18) == "18 inputs do not divide into groups of 4"


def test_more_kept_than_there_are_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot be larger"):
        NOfM(n=5, m=4)
