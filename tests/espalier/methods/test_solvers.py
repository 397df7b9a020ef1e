"""Solvers against float64 brute force on small shapes, and what all of them owe on degenerate inputs."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import MaskProblem, Pattern, Refit, Solver
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.quadratic import Scaled
from espalier.methods.solvers import least_squares
from espalier.methods.solvers.admm import Admm, relaxed
from espalier.methods.solvers.alps import Alps
from espalier.methods.solvers.awp import largest_eigenvalue
from espalier.methods.solvers.least_squares import LeastSquares
from espalier.methods.solvers.sparsegpt import SparseGpt
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from espalier.prune.safeguard import solve_with_safeguard
from espalier.recipe.steps.prune import SOLVERS
from espalier.stream.readout import Readout
from espalier.stream.statistics import OutputErrors

ROWS, INPUTS = 6, 32


def _draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _inputs(kind: str = "plain", tokens: int = 200) -> torch.Tensor:
    """Correlated inputs (T, I); some kinds are degenerate."""
    mix_II = torch.eye(INPUTS) + 0.4 * torch.randn(INPUTS, INPUTS, generator=_draws(1))
    input_TI = torch.randn(8 if kind == "few" else tokens, INPUTS, generator=_draws(2)) @ mix_II
    if kind == "dead":
        input_TI[:, ::5] = 0
    if kind == "equal":
        input_TI[:, 16:] = input_TI[:, :16]
    return torch.zeros_like(input_TI) if kind == "zero" else input_TI


def _gram(input_TI: torch.Tensor) -> torch.Tensor:
    return input_TI.T @ input_TI


def _weight() -> torch.Tensor:
    return torch.randn(ROWS, INPUTS, generator=_draws(3))


def _solve(
    solver: Solver, input_TI: torch.Tensor, mask_OI: torch.Tensor, pattern: Pattern | None = None, sparsity: float = 0.5
) -> Refit:
    return solver.solve(_problem(input_TI, mask_OI, pattern, sparsity))


def _problem(
    input_TI: torch.Tensor, mask_OI: torch.Tensor, pattern: Pattern | None = None, sparsity: float = 0.5
) -> MaskProblem:
    seen: Statistics = {Gram: _gram(input_TI)}
    return MaskProblem(_weight(), seen, _draws(), mask_OI, _weight().abs(), pattern or Unstructured(), sparsity)


def _hessian(input_TI: torch.Tensor, damping: float) -> torch.Tensor:
    gram_II = (input_TI.T @ input_TI).double()
    return gram_II + damping * gram_II.diagonal().mean() * torch.eye(INPUTS, dtype=torch.float64)


def _optimum(mask_OI: torch.Tensor, hessian_II: torch.Tensor) -> torch.Tensor:
    """The constrained optimum, row by row, in float64."""
    best_OI = torch.zeros(ROWS, INPUTS, dtype=torch.float64)
    for row, (weight_I, mask_I) in enumerate(zip(_weight().double(), mask_OI, strict=True)):
        kept = mask_I.nonzero().flatten()
        best_OI[row, kept] = torch.linalg.solve(hessian_II[kept][:, kept], (hessian_II @ weight_I)[kept])
    return best_OI


def _ragged_mask() -> torch.Tensor:
    mask_OI = torch.rand(ROWS, INPUTS, generator=_draws(4)) > torch.linspace(0.1, 0.95, ROWS)[:, None]
    mask_OI[0], mask_OI[1] = False, True
    return mask_OI


@pytest.mark.parametrize("bytes_", [1, 2**20])
def test_least_squares_is_the_optimum_of_every_row(bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "BATCH_BYTES", bytes_)  # one row at a time, or all
    refit = _solve(LeastSquares(damping=0.02), _inputs(), _ragged_mask())
    expected_OI = _optimum(_ragged_mask(), _hessian(_inputs(), 0.02))
    torch.testing.assert_close(refit.weight_OI.double(), expected_OI, rtol=1e-4, atol=1e-5)


def test_without_damping_an_unsolvable_row_gets_some() -> None:
    refit = _solve(LeastSquares(damping=0.0), _inputs("equal"), _ragged_mask())
    assert bool(torch.isfinite(refit.weight_OI).all())
    errors = OutputErrors(_weight(), _inputs("equal"), None)
    assert errors.relative(refit.weight_OI) < errors.relative(_weight() * _ragged_mask())


def test_sparsegpt_is_the_surgeon_s_formula_column_by_column() -> None:
    refit = _solve(SparseGpt(block_size=8), _inputs(), _ragged_mask())
    weight_OI, hessian_II = _weight().double(), _hessian(_inputs(), 0.01)
    for column in range(INPUTS):
        inverse = torch.linalg.inv(hessian_II[column:, column:])  # of the columns that may still move
        error_O = torch.where(_ragged_mask()[:, column], 0.0, weight_OI[:, column] / inverse[0, 0])
        weight_OI[:, column:] -= error_O[:, None] * inverse[0]
    torch.testing.assert_close(refit.weight_OI.double(), weight_OI * _ragged_mask(), rtol=1e-4, atol=1e-5)


def test_sparsegpt_chooses_a_group_by_the_weights_as_they_stand() -> None:
    refit = _solve(SparseGpt(block_size=10, mask="own"), _inputs(), torch.ones(ROWS, INPUTS).bool(), NOfM())
    weight_OI, hessian_II = _weight().double(), _hessian(_inputs(), 0.01)
    mask_OI = torch.ones(ROWS, INPUTS).bool()
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian_II), upper=True)
    for column in range(INPUTS):
        if column % 4 == 0:
            score = (weight_OI[:, column : column + 4] / upper.diagonal()[column : column + 4]).square()
            mask_OI[:, column : column + 4].scatter_(1, score.argsort(dim=1)[:, :2], False)
        error_O = torch.where(mask_OI[:, column], 0.0, weight_OI[:, column]) / upper[column, column]
        weight_OI[:, column:] -= error_O[:, None] * upper[column, column:]
    assert torch.equal(refit.mask_OI, mask_OI)
    torch.testing.assert_close(refit.weight_OI.double(), weight_OI * mask_OI, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pattern", "sparsity"), [(Unstructured(), 0.7), (Unstructured(scope="matrix"), 0.33)])
def test_sparsegpt_s_own_mask_keeps_the_budget(pattern: Unstructured, sparsity: float) -> None:
    refit = _solve(SparseGpt(block_size=8, mask="own"), _inputs(), _ragged_mask(), pattern, sparsity)
    static_OI = pattern.keep(_weight().abs(), sparsity=sparsity)
    if pattern.scope == "row":
        assert torch.equal(refit.mask_OI.sum(dim=1), static_OI.sum(dim=1))
    assert refit.mask_OI.sum() == static_OI.sum()


def test_alps_ends_at_the_optimum_of_its_mask() -> None:
    refit = _solve(Alps(refine=200), _inputs(), _ragged_mask())
    problem = Scaled.of(_problem(_inputs(), _ragged_mask()), 0.01)
    back = problem.scale_I.double()
    expected_OI = _optimum(refit.mask_OI, problem.hessian_II * back * back[:, None])
    torch.testing.assert_close(refit.weight_OI.double(), expected_OI, rtol=1e-3, atol=1e-4)


def test_one_iteration_of_admm_is_the_formula() -> None:
    refit = _solve(Admm(iterations=1, ramp=0, rho=0.7, damping=0.1, refit=False), _inputs(), _ragged_mask())
    scale_I = _inputs().double().norm(dim=0)
    gram_II = (_inputs().T @ _inputs()).double() / scale_I / scale_I[:, None]
    hessian_II, dense_OI = gram_II + 0.1 * torch.eye(INPUTS), _weight().double() * scale_I
    kept_OI = dense_OI.abs() >= dense_OI.abs().median(dim=1, keepdim=True).values
    kept_OI &= dense_OI.abs() > dense_OI.abs().median(dim=1, keepdim=True).values
    first_OI = dense_OI * kept_OI
    dual_OI = dense_OI - first_OI
    right_OI = dense_OI @ hessian_II + 0.7 * (first_OI - dual_OI)
    sum_OI = right_OI @ torch.linalg.inv(hessian_II + 0.7 * torch.eye(INPUTS)) + dual_OI
    expected_OI = sum_OI / scale_I * refit.mask_OI
    torch.testing.assert_close(refit.weight_OI.double(), expected_OI, rtol=1e-4, atol=1e-5)


def test_the_ramp_prunes_a_share_of_what_the_pattern_prunes() -> None:
    score_OI = _weight().abs()
    mask_OI = NOfM().keep(score_OI, sparsity=0.5)
    early_OI = relaxed(mask_OI, score_OI, fraction=0.25)
    assert bool((early_OI | ~mask_OI).all())
    assert (~early_OI).sum(dim=1).tolist() == [4] * ROWS
    gone = score_OI.masked_fill(mask_OI | early_OI, 0).amax(dim=1)
    assert bool((gone <= score_OI.masked_fill(mask_OI | ~early_OI, torch.inf).amin(dim=1)).all())


def test_power_iteration_does_not_fall_short_of_the_largest_eigenvalue() -> None:
    hessian_II = _hessian(_inputs(), 0.01)
    largest = float(torch.linalg.eigvalsh(hessian_II)[-1])
    assert largest <= largest_eigenvalue(hessian_II.float(), _draws()) <= 1.1 * largest


@pytest.mark.parametrize("kind", SOLVERS)
@pytest.mark.parametrize("pattern", [Unstructured(), Unstructured(scope="matrix"), NOfM(n=1, m=4)], ids=str)
@pytest.mark.parametrize("inputs", ["plain", "dead", "equal", "few", "zero"])
def test_every_solver_keeps_mask_and_guard_on_any_inputs(kind: str, pattern: Pattern, inputs: str) -> None:
    input_TI, sparsity = _inputs(inputs), pattern.implied_sparsity() or 0.6
    mask_OI = pattern.keep(_weight().abs() * (input_TI.double().norm(dim=0) + 1), sparsity=sparsity)
    errors = OutputErrors(_weight(), input_TI, _gram(input_TI))

    def solve() -> Refit:
        problem = _problem(input_TI, mask_OI, pattern, sparsity)
        with Readout() as readout:
            return solve_with_safeguard(
                SOLVERS[kind](), problem, errors, dtype=torch.bfloat16, module="m", readout=readout
            )

    refit, again = solve(), solve()
    assert torch.equal(refit.weight_OI, again.weight_OI)
    assert torch.equal(refit.mask_OI, again.mask_OI)
    assert bool(torch.isfinite(refit.weight_OI).all())
    assert torch.equal(refit.weight_OI, refit.weight_OI.masked_fill(~refit.mask_OI, 0))
    assert refit.mask_OI.sum() == mask_OI.sum()
    if pattern.line((ROWS, INPUTS)) == INPUTS:
        assert torch.equal(refit.mask_OI.sum(dim=1), mask_OI.sum(dim=1))
    if isinstance(pattern, NOfM):
        assert bool((refit.mask_OI.view(ROWS, -1, pattern.m).sum(dim=2) == pattern.n).all())
    assert errors.relative(refit.weight_OI) <= errors.relative(_weight() * mask_OI)
    if inputs == "plain":
        assert errors.relative(refit.weight_OI) < errors.relative(_weight() * mask_OI)


def test_sparsity_zero_changes_nothing() -> None:
    input_TI, ones_OI = _inputs(), torch.ones(ROWS, INPUTS, dtype=torch.bool)
    errors = OutputErrors(_weight(), input_TI, _gram(input_TI))
    for kind in SOLVERS:
        problem = _problem(input_TI, ones_OI, sparsity=0.0)
        refit = solve_with_safeguard(
            SOLVERS[kind](), problem, errors, dtype=torch.float32, module="m", readout=Readout()
        )
        assert torch.equal(refit.weight_OI, _weight())
