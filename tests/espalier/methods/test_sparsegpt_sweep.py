"""SparseGPT's sweep in pieces, as a GPU does it: the sweep by columns, with fewer launches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from espalier.methods.base import MaskProblem, Pattern
from espalier.methods.factorisations import Factorisations
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.solvers.sparsegpt import SparseGpt, piece_errors
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from tests.standin.backend import watching
from tests.standin.card import CARD
from tests.standin.tensors import DEVICE

ROWS = 7


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _problem(inputs: int, pattern: Pattern, sparsity: float) -> MaskProblem:
    mix_II = torch.eye(inputs) + 0.3 * torch.randn(inputs, inputs, generator=_draws(1))
    input_TI = torch.randn(4 * inputs, inputs, generator=_draws(2)) @ mix_II
    weight_OI = torch.randn(ROWS, inputs, generator=_draws(3))
    weight_OI[2] = 0
    mask_OI = pattern.keep(weight_OI.abs(), sparsity=sparsity)
    if isinstance(pattern, Unstructured):
        mask_OI[0], mask_OI[1] = True, False
    gram: Statistics = {Gram: input_TI.T @ input_TI}
    return MaskProblem(weight_OI, gram, _draws(4), mask_OI, weight_OI.abs(), pattern, sparsity)


def _on_card(problem: MaskProblem) -> MaskProblem:
    return replace(
        problem,
        weight_OI=problem.weight_OI.to(DEVICE),
        mask_OI=problem.mask_OI.to(DEVICE),
        score_OI=problem.score_OI.to(DEVICE),
        statistics={Gram: problem.statistics[Gram].to(DEVICE)},
        factorisations=Factorisations(),
    )


def test_the_errors_of_a_piece_are_those_of_its_columns() -> None:
    """Against the recursion over columns, in float64."""
    factor_PP = torch.rand(9, 9, generator=_draws(1), dtype=torch.float64).triu() + torch.eye(9)
    weight_PO = torch.randn(9, ROWS, generator=_draws(2), dtype=torch.float64)
    mask_PO = torch.rand(9, ROWS, generator=_draws(3)) > 0.5
    moved_PO, expected_PO = weight_PO.clone(), torch.zeros_like(weight_PO)
    for column in range(9):
        for row in range(ROWS):
            if not mask_PO[column, row]:
                expected_PO[column, row] = moved_PO[column, row] / factor_PP[column, column]
        moved_PO -= factor_PP[column][:, None] * expected_PO[column]
    torch.testing.assert_close(piece_errors(weight_PO, mask_PO, factor_PP), expected_PO, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", ["given", "own"])
@pytest.mark.parametrize(
    ("pattern", "sparsity"),
    [(Unstructured(), 0.5), (Unstructured(scope="matrix"), 0.7), (NOfM(n=2, m=4), 0.5), (NOfM(n=40, m=48), 1 / 6)],
    ids=str,
)
def test_a_card_sweeps_to_the_same_masks_and_weights(pattern: Pattern, sparsity: float, mask: str) -> None:
    problem, solver = _problem(144, pattern, sparsity), SparseGpt(mask=mask, block_size=100)  # type: ignore[arg-type]
    expected = solver.solve(problem)
    with watching():
        refit = solver.solve(_on_card(problem))
        assert refit.weight_OI.device == DEVICE
        assert torch.equal(refit.mask_OI.cpu(), expected.mask_OI)
        torch.testing.assert_close(refit.weight_OI.cpu(), expected.weight_OI, rtol=1e-4, atol=1e-5)


def test_a_card_begins_no_column_by_itself() -> None:
    launches = []
    for inputs in (64, 128):
        with watching():
            problem = _on_card(_problem(inputs, Unstructured(), 0.5))
            with CARD.account() as books:
                SparseGpt(mask="given").solve(problem)
        launches.append(books.launches)
    assert launches[1] - launches[0] <= 2 * 64, "a column by itself takes nine operators, views among them"
