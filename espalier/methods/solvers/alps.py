"""ALPS: ADMM with a growing penalty that settles the mask, then conjugate gradients on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, MaskProblem, Refit, Solver
from espalier.methods.lazy_torch import torch
from espalier.methods.quadratic import Scaled
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

EVERY = 3
"""Iterations between two looks at how much of the mask moved."""


class Alps(Solver):
    """One eigendecomposition of the Hessian serves every penalty; the mask stands when it no longer moves."""

    summary: ClassVar[str] = "Chooses mask and weights together; the best quality from 60 % on, at the highest price."
    paper: ClassVar[str] = "Meng et al. 2024 (arXiv 2406.07831)"
    cost: ClassVar[Cost] = "high"
    chooses_mask: ClassVar[bool] = True

    kind: Literal["alps"] = "alps"
    iterations: int = Field(300, ge=1, le=100_000, description="At most so many; it ends when the mask stands.")
    rho: float = Field(0.1, gt=0, le=1e6, description="First penalty, in units in which every input has norm one.")
    damping: float = Field(0.01, ge=0, le=10, description="Ridge, in the same units.")
    refine: int = Field(10, ge=0, le=10_000, description="Steps of conjugate gradients on the mask found.")

    def solve(self, problem: MaskProblem) -> Refit:
        """Return a mask of the pattern and the weights on it; the mask given is not read."""
        scaled = Scaled.of(problem, self.damping)
        sum_OI = self._iterate(problem, scaled)
        mask_OI = problem.pattern.keep(sum_OI.abs(), sparsity=problem.sparsity)
        start_OI = sum_OI.masked_fill(~mask_OI, 0)
        fitted_OI = conjugate_gradients(scaled, start_OI, mask_OI, steps=self.refine)
        return Refit(scaled.back(fitted_OI).masked_fill(~mask_OI, 0), mask_OI)

    def _iterate(self, problem: MaskProblem, scaled: Scaled) -> Tensor:
        """The scaled weights whose projection is the result."""
        values_I, vectors_II = self._eigenbasis(problem, scaled)
        linear_OI = scaled.weight_OI @ vectors_II * values_I  # W0 H, in the eigenbasis
        rho, sum_OI, dual_OI = self.rho, scaled.weight_OI, torch.zeros_like(scaled.weight_OI)
        previous_OI = torch.ones_like(sum_OI, dtype=torch.bool)
        for step in counted(range(self.iterations)):
            mask_OI = problem.pattern.keep(sum_OI.abs(), sparsity=problem.sparsity)
            projected_OI = sum_OI.masked_fill(~mask_OI, 0)
            dual_OI = sum_OI - projected_OI
            if step and step % EVERY == 0:
                moved, kept = torch.stack([(mask_OI != previous_OI).sum(), mask_OI.sum()]).tolist()
                if moved == 0:
                    break
                previous_OI = mask_OI
                factor = _growth(moved / max(1, kept))  # narrow rows may lose everything
                rho, dual_OI = rho * factor, dual_OI / factor  # the dual is kept divided by rho
            right_OI = linear_OI + rho * (projected_OI - dual_OI) @ vectors_II
            sum_OI = (right_OI / (values_I + rho)) @ vectors_II.T + dual_OI
        return sum_OI

    def _eigenbasis(self, problem: MaskProblem, scaled: Scaled) -> tuple[Tensor, Tensor]:
        """Eigenvalues (I,), none below zero, and eigenvectors (I, I) of the Hessian."""

        def decompose() -> tuple[Tensor, Tensor]:
            values_I, vectors_II = torch.linalg.eigh(scaled.hessian_II)
            dtype = scaled.weight_OI.dtype
            return values_I.clamp_min(0).to(dtype), vectors_II.to(dtype)

        return problem.factorisations.once(("eigenbasis", self.damping), decompose)


def _growth(moved: float) -> float:
    """Return the growth of the penalty for a fraction of the mask that moved."""
    return 1.3 if moved >= 0.1 else 1.2 if moved >= 0.005 else 1.1


def conjugate_gradients(scaled: Scaled, start_OI: Tensor, mask_OI: Tensor, *, steps: int) -> Tensor:
    """Minimise the quadratic over the kept weights, all rows at once, diagonally preconditioned."""
    hessian_II = scaled.hessian_II.to(start_OI.dtype)
    inverse_I = 1 / hessian_II.diagonal()
    fitted_OI = start_OI.clone()
    residual_OI = ((scaled.weight_OI - fitted_OI) @ hessian_II).masked_fill_(~mask_OI, 0)
    preconditioned_OI = residual_OI * inverse_I
    direction_OI = preconditioned_OI
    power_O = (residual_OI * preconditioned_OI).sum(dim=1, keepdim=True)
    floor_O = 1e-12 * power_O  # where rounding has taken over: going on would lead away
    for _ in counted(range(steps)):
        image_OI = (direction_OI @ hessian_II).masked_fill_(~mask_OI, 0)
        length_O = torch.where(power_O > floor_O, power_O / (direction_OI * image_OI).sum(dim=1, keepdim=True), 0)
        fitted_OI += length_O * direction_OI
        residual_OI = residual_OI - length_O * image_OI
        preconditioned_OI = residual_OI * inverse_I
        next_O = (residual_OI * preconditioned_OI).sum(dim=1, keepdim=True)
        direction_OI = preconditioned_OI + torch.where(power_O > floor_O, next_O / power_O, 0) * direction_OI
        power_O = next_O
    return fitted_OI
