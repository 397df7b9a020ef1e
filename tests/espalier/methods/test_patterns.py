"""Exact counts and ties of the patterns, from tables small enough to check by eye."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError

from espalier.methods.patterns.cs256 import Cs256
from espalier.methods.patterns.group import Group
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.tiles import Tiles
from espalier.methods.patterns.unstructured import Unstructured


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


@pytest.mark.parametrize("scope", ["row", "matrix"])
def test_groups_go_by_the_sum_of_their_scores(scope: Literal["row", "matrix"]) -> None:
    score_OI = torch.rand(6, 24)
    mask_OI = Group(g=8, scope=scope).keep(score_OI, sparsity=1 / 3)
    sums, kept = score_OI.view(6, 3, 8).sum(dim=2), mask_OI.view(6, 3, 8)
    assert torch.equal(kept.any(dim=2), kept.all(dim=2))
    if scope == "row":
        assert torch.equal(kept.all(dim=2), sums > sums.min(dim=1, keepdim=True).values)
    else:
        assert torch.equal(kept.all(dim=2), sums > sums.flatten().sort().values[5])


def test_every_256_inputs_keep_a_multiple_of_8_and_the_highest_of_them() -> None:
    score_OI = torch.rand(5, 600)  # tiles of 256, 256 and 88
    mask_OI = Cs256().keep(score_OI, sparsity=0.6)
    counts = []
    for start in (0, 256, 512):
        kept, scores = mask_OI[:, start : start + 256], score_OI[:, start : start + 256]
        assert (kept.sum(dim=1) % 8 == 0).all()
        for row in range(5):
            assert torch.equal(kept[row], scores[row] >= scores[row].sort().values[-int(kept[row].sum())])
        counts += kept.sum(dim=1).tolist()
        assert int((~kept).sum()) == 8 * round(0.6 * kept.numel() / 8)
    assert len(set(counts)) > 3  # tiles differ: that is what the budget over a column of tiles is for
    assert Cs256().refusal(602) == "602 inputs are no multiple of 8"


def test_the_best_eights_of_a_column_of_tiles_stay() -> None:
    score_OI = torch.rand(4, 256)
    sums = score_OI.sort(dim=1).values.view(4, 32, 8).sum(dim=2)
    limit = sums.flatten().sort().values[round(0.7 * 128)]
    assert torch.equal(Cs256().keep(score_OI, sparsity=0.7).sum(dim=1), (sums >= limit).sum(dim=1) * 8)


def test_the_worst_tiles_stay_dense_and_the_rest_meets_the_sparsity() -> None:
    score_OI = torch.rand(16, 16)
    score_OI[:8, 8:] *= 100  # whatever goes there costs most
    mask_OI = Tiles(dense=0.25, rows=8, columns=8).keep(score_OI, sparsity=0.6)
    assert bool(mask_OI[:8, 8:].all())
    assert int((~mask_OI).sum()) == round(0.6 * 256)
    rest = torch.ones(16, 16, dtype=torch.bool)
    rest[:8, 8:] = False
    assert score_OI[rest & mask_OI].min() >= score_OI[rest & ~mask_OI].max()


def test_tiles_of_n_of_m_come_as_close_to_the_sparsity_as_whole_tiles_can() -> None:
    score_OI = torch.rand(20, 24)  # 3 x 3 tiles, the last row of them half as high
    pattern = Tiles(dense=0.2, rows=8, columns=8, rest="nm", n=1, m=4)
    assert pattern.implied_sparsity() == pytest.approx(0.6)
    mask_OI = pattern.keep(score_OI, sparsity=0.6)
    areas = [[mask_OI[r : r + 8, c : c + 8] for c in (0, 8, 16)] for r in (0, 8, 16)]
    dense = [tile for row in areas for tile in row if bool(tile.all())]
    for tile in (tile for row in areas for tile in row if not bool(tile.all())):
        assert (tile.reshape(-1, 4).sum(dim=1) == 1).all()
    assert dense
    assert abs(int((~mask_OI).sum()) - 0.6 * 480) <= 64 * 0.75 / 2


@pytest.mark.parametrize("fields", [{"rest": "nm", "columns": 6}, {"rest": "nm", "n": 5}, {"dense": 1.0}])
def test_tiles_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Tiles(**fields)


def test_a_budget_that_moves_n_shows_in_the_name() -> None:
    assert [NOfM(n=4, m=8).label_at(sparsity) for sparsity in (0.5, 0.25, 0.625)] == ["4:8", "6:8", "3:8"]
