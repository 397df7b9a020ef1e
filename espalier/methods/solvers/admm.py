"""ADMM: mask and weights together, the mask grown step by step, then the exact optimum on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, MaskProblem, Refit, Solver
from espalier.methods.lazy_torch import torch
from espalier.methods.patterns.unstructured import without_lowest
from espalier.methods.quadratic import WIDE, Scaled
from espalier.methods.solvers.alps import conjugate_gradients
from espalier.methods.solvers.least_squares import refit_rows
from espalier.methods.statistics.gram import Gram
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

GRADIENT_STEPS = 100
"""Conjugate gradients towards the optimum of wide matrices, whose rows are too many and too long to factorise."""


class Admm(Solver):
    """Alternates a ridge solution with a projection on the pattern; one inverse serves all iterations."""

    summary: ClassVar[str] = "Chooses mask and weights together; most of the quality at a few times SparseGPT's price."
    paper: ClassVar[str] = "Boza 2024 (arXiv 2401.02938)"
    cost: ClassVar[Cost] = "medium"
    chooses_mask: ClassVar[bool] = True

    kind: Literal["admm"] = "admm"
    iterations: int = Field(30, ge=1, le=10_000)
    ramp: int = Field(15, ge=0, le=10_000, description="Iterations over which the sparsity grows cubically.")
    rho: float = Field(1.0, gt=0, le=1e6, description="Penalty, in units in which every input has norm one.")
    damping: float = Field(0.1, ge=0, le=10, description="Ridge of the iteration, in the same units.")
    refit: bool = Field(True, description="End with the exact least-squares optimum on the mask found.")
    refit_damping: float = Field(0.01, ge=0, le=10, description="Ridge of that optimum; see `least_squares`.")

    def solve(self, problem: MaskProblem) -> Refit:
        """Return a mask of the pattern and the weights on it; the mask given is not read."""
        weight_OI, gram_II = problem.weight_OI, problem.statistics[Gram]
        scaled = Scaled.of(problem, self.damping)
        sum_OI = self._iterate(problem, scaled)
        mask_OI = problem.pattern.keep(sum_OI.abs(), sparsity=problem.sparsity)
        if self.refit and weight_OI.shape[1] <= 2 * WIDE:
            return Refit(refit_rows(weight_OI, mask_OI, gram_II, self.refit_damping), mask_OI)
        fitted_OI = sum_OI.masked_fill(~mask_OI, 0)
        if self.refit:
            gentle = Scaled.of(problem, self.refit_damping)
            fitted_OI = conjugate_gradients(gentle, fitted_OI, mask_OI, steps=GRADIENT_STEPS)
        return Refit(scaled.back(fitted_OI).masked_fill(~mask_OI, 0), mask_OI)

    def _iterate(self, problem: MaskProblem, scaled: Scaled) -> Tensor:
        """The scaled weights whose projection is the result."""
        inverse_II = self._shifted_inverse(problem, scaled)
        fixed_OI = scaled.weight_OI @ scaled.hessian_II.to(scaled.weight_OI.dtype) @ inverse_II
        primal_OI, dual_OI = scaled.weight_OI, torch.zeros_like(scaled.weight_OI)
        for step in counted(range(self.iterations)):
            sum_OI = primal_OI + dual_OI
            mask_OI = problem.pattern.keep(sum_OI.abs(), sparsity=problem.sparsity)
            if step + 1 < self.ramp:
                mask_OI = relaxed(mask_OI, sum_OI.abs(), fraction=1 - (1 - (step + 1) / self.ramp) ** 3)
            projected_OI = sum_OI.masked_fill(~mask_OI, 0)
            dual_OI = sum_OI - projected_OI
            primal_OI = fixed_OI + self.rho * (projected_OI - dual_OI) @ inverse_II
        return primal_OI + dual_OI

    def _shifted_inverse(self, problem: MaskProblem, scaled: Scaled) -> Tensor:
        """The inverse of H + rho."""

        def invert() -> Tensor:
            shifted_II = scaled.hessian_II.clone()
            shifted_II.diagonal().add_(self.rho)
            inverse_II: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(shifted_II))
            return inverse_II.to(scaled.weight_OI.dtype)

        return problem.factorisations.once(("shifted inverse", self.damping, self.rho), invert)


def relaxed(mask_OI: Tensor, score_OI: Tensor, *, fraction: float) -> Tensor:
    """Relax a mask: prune only the lowest `fraction` of what it prunes; the ramp, for any pattern.

    The lowest of every row where rows lose equally many, else of the matrix.
    """
    gone_O = (~mask_OI).sum(dim=1)
    equally, gone = torch.stack([(gone_O == gone_O[0]).all(), gone_O.sum()]).tolist()
    rows = len(score_OI) if equally else 1
    line_LN = score_OI.masked_fill(mask_OI, torch.inf).view(rows, -1)
    kept_LN = without_lowest(line_LN, num_pruned=round(fraction * gone / rows))
    return kept_LN.view(score_OI.shape)
