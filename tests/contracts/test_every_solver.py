"""What every solver promises; a newcomer is tested without an edit here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from espalier.errors import NumericalError
from espalier.methods.base import Axes, Pattern, Solver
from espalier.prune.safeguard import solve_with_safeguard
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, SOLVERS
from espalier.stream.readout import Readout
from espalier.stream.statistics import OutputErrors
from tests.contracts.cells import variants
from tests.contracts.layers import (
    EVERY_PATTERN,
    INPUTS,
    OUTPUTS,
    Recorded,
    error,
    frozen,
    inputs,
    masked,
    share_of,
    tensors_of,
    untouched,
)

ROW = next(pattern for pattern in EVERY_PATTERN if pattern.label() == "unstructured/row")


def _beside(solver: Solver) -> Solver:
    """The solver as it works in a step that asks for nothing else."""
    return solver.for_axes(Axes(CRITERIA["magnitude"](), ROW, BUDGETS["uniform"](), None, solver))


EVERY = [_beside(kind.model_validate(choice)) for kind in SOLVERS.values() for choice in variants(kind, "kind")]
KINDS = pytest.mark.parametrize("solver", EVERY, ids=str)
PATTERNS = pytest.mark.parametrize("pattern", EVERY_PATTERN, ids=lambda pattern: pattern.label())


@pytest.mark.deep
@KINDS
@PATTERNS
def test_what_is_pruned_is_zero_and_counts_are_those_of_the_mask_given(solver: Solver, pattern: Pattern) -> None:
    layer = masked(solver.statistics, pattern)
    before = frozen(*tensors_of(layer))
    refit, again = solver.solve(layer), solver.solve(masked(solver.statistics, pattern))
    assert untouched(before)
    assert torch.equal(refit.weight_OI, again.weight_OI)
    assert refit.weight_OI.dtype == torch.float32
    assert bool(torch.isfinite(refit.weight_OI).all())
    assert not bool(refit.weight_OI.masked_fill(refit.mask_OI, 0).any())
    assert int(refit.mask_OI.sum()) == int(layer.mask_OI.sum())
    assert torch.equal(pattern.keep(refit.mask_OI.float(), sparsity=layer.sparsity), refit.mask_OI)
    if not (solver.chooses_mask or solver.moves_mask):
        assert torch.equal(refit.mask_OI, layer.mask_OI)


@KINDS
def test_a_row_alone_is_solved_and_nothing_is_changed_in_place(solver: Solver) -> None:
    for pattern in EVERY_PATTERN:
        layer = masked(solver.statistics, pattern, rows=1)
        before = frozen(*tensors_of(layer))
        solver.solve(layer)
        assert untouched(before), pattern.label()


@KINDS
def test_weights_are_better_than_the_mask_alone(solver: Solver) -> None:
    layer = masked(solver.statistics, ROW)
    refit = solver.solve(layer)
    assert float(error(layer, refit.weight_OI).sum()) < float(error(layer, layer.weight_OI * layer.mask_OI).sum())


@KINDS
def test_it_reads_what_it_declares_and_nothing_else(solver: Solver) -> None:
    layer = masked(solver.statistics, ROW)
    solver.solve(layer)
    assert isinstance(layer.statistics, Recorded)
    assert layer.statistics.read == set(solver.statistics)


@KINDS
def test_where_nothing_is_pruned_the_guard_keeps_the_weights(solver: Solver) -> None:
    layer = masked(solver.statistics, ROW, sparsity=0.0)
    errors = OutputErrors(layer.weight_OI, inputs(), None)
    refit = solve_with_safeguard(solver, layer, errors, dtype=torch.float32, module="m", readout=Readout())
    assert torch.equal(refit.weight_OI, layer.weight_OI)
    assert bool(refit.mask_OI.all())


@KINDS
def test_a_row_may_lose_everything(solver: Solver) -> None:
    refit = solver.solve(masked(solver.statistics, ROW, sparsity=0.99))
    assert not bool(refit.mask_OI.any())
    assert not bool(refit.weight_OI.any())


@KINDS
def test_statistics_that_are_not_finite_are_refused_or_change_no_weight(solver: Solver) -> None:
    """The walk has refused them before; a solver must not fail in a way that the guard does not know."""
    layer = masked(solver.statistics, ROW)
    errors = OutputErrors(layer.weight_OI, inputs(), None)
    nothing = {kind: torch.full_like(value, torch.nan) for kind, value in layer.statistics.items()}
    broken = replace(layer, statistics=nothing)
    with suppress(NumericalError):
        refit = solve_with_safeguard(solver, broken, errors, dtype=torch.float32, module="m", readout=Readout())
        assert torch.equal(refit.weight_OI, layer.weight_OI * layer.mask_OI)


@KINDS
def test_a_solver_that_only_picks_picks_one_that_is_there(solver: Solver) -> None:
    for sparsity in (0.3, share_of(ROW), 0.9):
        for width in (INPUTS, 2**15):
            chosen = solver.solver_for((OUTPUTS, width), sparsity=sparsity)
            assert type(chosen) in SOLVERS.values()
            assert chosen.solver_for((OUTPUTS, width), sparsity=sparsity) == chosen
