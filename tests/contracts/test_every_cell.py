"""Every cell of criterion x pattern x budget x optimizer x update runs, or is refused with a reason."""

from __future__ import annotations

import functools

import pytest
import torch

from espalier.methods.allocation import fitted, mean
from espalier.methods.base import InputStatistics, MatrixFacts, Pattern
from espalier.model.numerics import generator
from espalier.recipe.prune import PruneStep
from tests.contracts.cells import AXES, USUAL, Choice, cells, name_of, refused_pairs, step_of

SHAPE = (8, 16)
GROUPS = [(pattern, budget) for pattern in AXES["pattern"] for budget in AXES["budget"]]


@functools.cache
def _seen() -> tuple[torch.Tensor, InputStatistics]:
    draws = generator(0, "cell")
    weight_OI, input_TI = torch.randn(SHAPE, generator=draws), torch.randn(64, SHAPE[1], generator=draws)
    gram_II = input_TI.T @ input_TI
    return weight_OI, InputStatistics(64, gram_II.diagonal().double().sqrt(), gram_II, torch.rand(SHAPE[0]).double())


def _facts() -> list[MatrixFacts]:
    """Two blocks, of which the first has wilder weights."""
    weight_OI, seen = _seen()
    loads = (lambda: weight_OI**3, lambda: weight_OI)
    return [MatrixFacts(f"{block}", block, SHAPE, load, seen.norm_I) for block, load in enumerate(loads)]


def _widened(budget: Choice | None) -> Choice | None:
    """A hand-written budget names as many blocks as there are."""
    return budget | {"values": budget["values"] * 2} if budget and "values" in budget else budget


@pytest.mark.deep
@pytest.mark.parametrize(("pattern", "budget"), GROUPS, ids=lambda choice: "-".join(map(str, choice.values())))
def test_a_cell_runs_or_is_refused(pattern: Choice, budget: Choice) -> None:
    for cell in cells():
        if (cell["pattern"], cell["budget"]) == (pattern, budget):
            step = step_of(cell | {"budget": _widened(budget)})
            if not isinstance(step, str):
                _runs(step, name_of(cell))


def _runs(step: PruneStep, name: str) -> None:
    facts = _facts()
    shares = fitted(step.budget.shares(step.share, facts), facts, step.share, step.pattern)
    assert mean(shares, facts) == pytest.approx(step.share, abs=1 / 16), name
    assert all(0 <= share <= max(step.share, step.pattern.ceiling()) for share in shares.values()), name
    weight_OI, seen = _seen()
    share = shares["0"]
    score_OI = step.score(weight_OI, seen, generator=generator(0))
    mask_OI = step.pattern.keep(score_OI, sparsity=share)
    if step.optimizer is not None:
        before = mask_OI
        mask_OI = step.optimizer.improve(weight_OI, mask_OI, score_OI, seen, pattern=step.pattern, sparsity=share)
        _check_mask(step.pattern, mask_OI, share, int(before.sum()), name)
        assert _error(weight_OI, mask_OI) <= _error(weight_OI, before), name
    if step.solver is not None:
        solver = step.solver.picked(SHAPE, sparsity=share)
        refit = solver.solve(
            weight_OI, mask_OI, seen, pattern=step.pattern, sparsity=share, generator=generator(0)
        )  # fmt: skip
        assert bool(torch.isfinite(refit.weight_OI).all()), name
        assert not bool(refit.weight_OI.masked_fill(refit.mask_OI, 0).any()), name
        _check_mask(step.pattern, refit.mask_OI, share, int(mask_OI.sum()), name)


def _check_mask(pattern: Pattern, mask_OI: torch.Tensor, share: float, kept: int, name: str) -> None:
    """A mask of the pattern, scored by itself, is what the pattern keeps."""
    assert mask_OI.dtype == torch.bool, name
    assert int(mask_OI.sum()) == kept, name
    assert torch.equal(pattern.keep(mask_OI.float(), sparsity=share), mask_OI), name


def _error(weight_OI: torch.Tensor, mask_OI: torch.Tensor) -> float:
    weight_OI, seen = _seen()
    assert seen.gram_II is not None
    lost_OI = weight_OI.double().masked_fill(mask_OI, 0)
    return float((lost_OI @ seen.gram_II.double() * lost_OI).sum())


def test_what_is_refused_is_refused_for_a_pair_of_its_choices() -> None:
    pairs = [{name: cell[name] for name in AXES if cell[name] != USUAL[name]} for cell, _ in refused_pairs()]
    assert pairs
    for cell in cells():
        if isinstance(step_of(cell), str):
            assert any(all(cell[name] == choice for name, choice in pair.items()) for pair in pairs), name_of(cell)
