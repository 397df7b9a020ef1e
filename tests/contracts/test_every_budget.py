"""What every budget promises; a newcomer is tested without an edit here."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.allocation import mean
from espalier.methods.base import Budget, MatrixFacts
from espalier.model.numerics import generator
from espalier.recipe.steps.prune import BUDGETS
from tests.contracts.cells import variants
from tests.contracts.layers import Recorded, frozen, statistics, untouched

SHAPES = ((16, 24), (24, 16), (8, 24))
BLOCKS = 3
EVERY = [kind.model_validate(choice) for kind in BUDGETS.values() for choice in variants(kind, "kind")]
FREE = [budget for budget in EVERY if not budget.example]
"""Those that no hand has written for one model at one sparsity."""


def _facts(budget: Budget) -> list[MatrixFacts]:
    """Blocks that grow wilder, without two equal weights."""
    matrices = []
    for block in range(BLOCKS):
        for number, shape in enumerate(SHAPES):
            draws = generator(0, "budget", block, number)
            weight_OI = torch.randn(shape, generator=draws) ** (1 + 2 * block)
            seen = Recorded(statistics(budget.statistics, torch.randn(64, shape[1], generator=draws)))
            name = f"{block}.{number}"
            matrices.append(MatrixFacts(name, block, shape, lambda weight_OI=weight_OI: weight_OI, seen))  # type: ignore[misc]
    return matrices


@pytest.mark.parametrize("budget", FREE, ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.95])
def test_the_mean_over_the_weights_is_what_was_asked(budget: Budget, sparsity: float) -> None:
    facts = _facts(budget)
    before = frozen(*(matrix.load() for matrix in facts))
    shares = budget.sparsities(sparsity, facts)
    assert untouched(before)
    assert list(shares) == [matrix.name for matrix in facts]
    assert all(0 <= fraction < 1 for fraction in shares.values())
    # A budget that counts single weights is exact up to one of them.
    assert mean(shares, facts) == pytest.approx(sparsity, abs=0.5 / sum(matrix.size for matrix in facts) + 1e-9)
    assert budget.sparsities(sparsity, _facts(budget)) == shares


@pytest.mark.parametrize("budget", FREE, ids=str)
def test_the_order_of_the_matrices_does_not_matter(budget: Budget) -> None:
    facts = _facts(budget)
    shares, turned = budget.sparsities(0.5, facts), budget.sparsities(0.5, facts[::-1])
    assert turned == pytest.approx(shares)


@pytest.mark.parametrize("budget", EVERY, ids=str)
def test_it_reads_what_it_declares_and_nothing_else(budget: Budget) -> None:
    facts = _facts(budget)
    if "values" in budget.example:
        budget = budget.model_copy(update={"values": [0.5] * BLOCKS})
    budget.sparsities(0.5, facts)
    for matrix in facts:
        assert isinstance(matrix.statistics, Recorded)
        assert matrix.statistics.read == set(budget.statistics)
