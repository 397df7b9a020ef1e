"""The quadratic every solver minimises: ||X (W - W0)^T||^2 + damping, made definite and, if asked for, unit-diagonal.

With G = X^T X and H = G + damping * mean(diag G) * I the ridge pulls towards the dense weights W0, so an input that is
always zero keeps its weights, and equal inputs share theirs: neither needs a case of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.methods.lazy_torch import torch
from espalier.methods.statistics.gram import Gram

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from espalier.methods.base import LayerProblem

WIDE = 1024
"""Matrices with at most so many inputs are factorised in float64: there it costs next to nothing."""
DAMPING_FACTORS = (1.0, 10.0, 100.0)
"""Damping is raised by these factors until a factorisation stands."""


class SingularError(ArithmeticError):
    """None of the damping factors made the Gram matrix definite."""


def damped(gram_II: Tensor, damping: float) -> Tensor:
    """Return G + damping * mean(diag G) * I, float64 up to `WIDE` inputs; the identity when every input is zero."""
    matrix_II = gram_II.to(torch.float64 if len(gram_II) <= WIDE else torch.float32, copy=True)
    mean = matrix_II.diagonal().double().mean()
    matrix_II.diagonal().add_(torch.where(mean > 0, damping * mean, 1.0))
    return matrix_II


def cholesky(gram_II: Tensor, damping: float, holds: Callable[[Tensor], bool] = bool) -> Tensor:
    """Compute the lower Cholesky factor of the damped Gram matrix; raise the damping until `holds` that it exists."""
    for factor in DAMPING_FACTORS:
        lower_II, info = torch.linalg.cholesky_ex(damped(gram_II, max(damping, 1e-6) * factor))
        lower: Tensor = lower_II
        if holds((info == 0) & torch.isfinite(lower).all()):
            return lower
    raise SingularError("the Gram matrix of the inputs cannot be factorised")


def inverse(problem: LayerProblem, damping: float) -> Tensor:
    """Return the inverse of a problem's damped Gram matrix; raises SingularError as `cholesky` does."""
    gram_II = problem.statistics[Gram]
    return problem.factorisations.once(
        ("inverse", damping), lambda: torch.cholesky_inverse(cholesky(gram_II, damping, problem.factorisations.holds))
    )


@dataclass(frozen=True)
class ScaledGram:
    """The damped Gram matrix in units in which every input has norm one."""

    hessian_II: Tensor
    scale_I: Tensor
    """float64."""

    @classmethod
    def of(cls, gram_II: Tensor, damping: float) -> ScaledGram:
        """Scale inputs by sqrt(diag G); an input that is always zero gets the least scale that is not zero."""
        scale_I = gram_II.diagonal().double().clamp_min(0).sqrt()
        smallest = torch.where(scale_I > 0, scale_I, torch.inf).min()
        scale_I = torch.where(scale_I > 0, scale_I, torch.where(smallest.isinf(), 1.0, smallest))
        unit_II = (gram_II.double() if len(gram_II) <= WIDE else gram_II) / scale_I.to(gram_II.dtype)
        unit_II = unit_II / scale_I.to(unit_II.dtype)[:, None]
        return cls(damped(unit_II, damping), scale_I)


@dataclass(frozen=True)
class Scaled:
    """The damped quadratic in units in which every input has norm one: magnitude there is Wanda's score."""

    hessian_II: Tensor
    weight_OI: Tensor
    """W0 * scale, float32."""
    scale_I: Tensor

    @classmethod
    def of(cls, problem: LayerProblem, damping: float) -> Scaled:
        """Scale a problem's weights by the norms of their inputs."""
        weight_OI, gram_II = problem.weight_OI, problem.statistics[Gram]
        gram = problem.factorisations.once(("scaled", damping), lambda: ScaledGram.of(gram_II, damping))
        scale_I = gram.scale_I.to(weight_OI.dtype)
        return cls(gram.hessian_II, weight_OI * scale_I, scale_I)

    def back(self, weight_OI: Tensor) -> Tensor:
        """Convert scaled weights into the model's own units."""
        return weight_OI / self.scale_I


def squared_output_error(change_OI: Tensor, gram_II: Tensor) -> Tensor:
    """Return ||X d^T||^2 of every row d of a change, float64 (O,)."""
    return ((change_OI.float() @ gram_II.float()).double() * change_OI).sum(dim=1).clamp_min(0)
