"""Every cell of criterion x pattern x budget x optimizer x update runs, or is refused with a reason."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from espalier.methods.allocation import clip_to_pattern, mean
from espalier.methods.base import LayerProblem, MaskProblem, MatrixFacts, Pattern
from espalier.model.numerics import generator
from espalier.recipe.steps.prune import PruneStep
from tests.contracts.cells import AXES, USUAL, Choice, Refused, axes_of, cells, name_of, refused_pairs, step_of
from tests.contracts.layers import statistics
from tests.contracts.refusals import REFUSALS, must_refuse, rows_for

SHAPE = (8, 16)
GROUPS = [(pattern, budget) for pattern in AXES["pattern"] for budget in AXES["budget"]]


@functools.cache
def _weight() -> torch.Tensor:
    return torch.randn(SHAPE, generator=generator(0, "cell"))


@functools.cache
def _input() -> torch.Tensor:
    return torch.randn(64, SHAPE[1], generator=generator(1, "cell"))


def _facts(step: PruneStep) -> list[MatrixFacts]:
    """Two blocks, of which the first has wilder weights."""
    seen = statistics(step.budget.statistics, _input())
    loads: tuple[Callable[[], torch.Tensor], ...] = (lambda: _weight() ** 3, _weight)
    return [MatrixFacts(f"{block}", block, SHAPE, load, seen) for block, load in enumerate(loads)]


def _widened(budget: Choice | None) -> Choice | None:
    """A hand-written budget names as many blocks as there are."""
    return budget | {"values": budget["values"] * 2} if budget and "values" in budget else budget


@pytest.mark.deep
@pytest.mark.parametrize(("pattern", "budget"), GROUPS, ids=lambda choice: "-".join(map(str, choice.values())))
def test_a_cell_runs_or_is_refused(pattern: Choice, budget: Choice) -> None:
    for cell in cells():
        if (cell["pattern"], cell["budget"]) == (pattern, budget):
            step = step_of(cell | {"budget": _widened(budget)})
            if not isinstance(step, Refused):
                _runs(step, name_of(cell))


def _runs(step: PruneStep, name: str) -> None:
    facts = _facts(step)
    shares = clip_to_pattern(
        step.budget.sparsities(step.target_sparsity, facts), facts, step.target_sparsity, step.pattern
    )
    assert mean(shares, facts) == pytest.approx(step.target_sparsity, abs=1 / 16), name
    assert all(0 <= fraction <= max(step.target_sparsity, step.pattern.ceiling()) for fraction in shares.values()), name
    fraction = shares["0"]
    layer = LayerProblem(_weight(), statistics((*step.planned, *step.gathers), _input()), generator(0))
    score_OI = step.score(layer)
    mask_OI = step.pattern.keep(score_OI, sparsity=fraction)
    problem = MaskProblem(_weight(), layer.statistics, generator(0), mask_OI, score_OI, step.pattern, fraction)
    if step.optimizer is not None:
        before = mask_OI
        mask_OI = step.optimizer.improve(problem)
        _check_mask(step.pattern, mask_OI, fraction, int(before.sum()), name)
        assert _error(_weight(), mask_OI) <= _error(_weight(), before), name
        problem = replace(problem, mask_OI=mask_OI)
    if step.solver is not None:
        refit = step.solver.solver_for(SHAPE, sparsity=fraction).solve(problem)
        assert bool(torch.isfinite(refit.weight_OI).all()), name
        assert not bool(refit.weight_OI.masked_fill(refit.mask_OI, 0).any()), name
        _check_mask(step.pattern, refit.mask_OI, fraction, int(mask_OI.sum()), name)


def _check_mask(pattern: Pattern, mask_OI: torch.Tensor, fraction: float, kept: int, name: str) -> None:
    """A mask of the pattern, scored by itself, is what the pattern keeps."""
    assert mask_OI.dtype == torch.bool, name
    assert int(mask_OI.sum()) == kept, name
    assert torch.equal(pattern.keep(mask_OI.float(), sparsity=fraction), mask_OI), name


def _error(weight_OI: torch.Tensor, mask_OI: torch.Tensor) -> float:
    lost_TO = _input().double() @ weight_OI.double().masked_fill(mask_OI, 0).T
    return float(lost_TO.square().sum())


def test_a_pair_is_refused_where_the_list_of_refusals_says_so_and_nowhere_else() -> None:
    for first, second in itertools.combinations(AXES, 2):
        for one, other in itertools.product(AXES[first], AXES[second]):
            cell = USUAL | {first: one, second: other}
            step, axes = step_of(cell), axes_of(cell)
            if isinstance(step, Refused):
                rows = rows_for(axes)
                assert any(row.at == step.at and row.part in step.reason for row in rows), (name_of(cell), step)
            else:
                assert not must_refuse(axes), name_of(cell)


def test_every_row_of_the_list_refuses_something() -> None:
    refused = [axes_of(cell) for cell, _ in refused_pairs()]
    assert [row for row in REFUSALS if not any(row in must_refuse(axes) for axes in refused)] == []


def test_what_is_refused_is_refused_for_a_pair_of_its_choices() -> None:
    pairs = [{name: cell[name] for name in AXES if cell[name] != USUAL[name]} for cell, _ in refused_pairs()]
    assert pairs
    for cell in cells():
        if isinstance(step_of(cell), Refused):
            assert any(all(cell[name] == choice for name, choice in pair.items()) for pair in pairs), name_of(cell)
