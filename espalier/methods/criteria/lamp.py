"""LAMP: the magnitude of a weight relative to everything in its matrix that is not smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Axes, Criterion, LayerProblem
from espalier.methods.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor


class Lamp(Criterion):
    """Scores a weight by w^2 / (sum of w'^2 over the matrix's weights that are not smaller)."""

    summary: ClassVar[str] = "Magnitude made comparable between matrices, for the global scope; needs no calibration."
    paper: ClassVar[str] = "Lee et al. 2021 (arXiv 2010.07611)"
    constraints: ClassVar[tuple[str, ...]] = (
        "not with n:m, where it orders weights as magnitude does",
        "within one matrix it orders weights as magnitude does: it differs with the global scope",
    )

    method: Literal["lamp"] = "lamp"

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse n:m: the only thing that the score adds is lost inside of groups."""
        if axes.pattern.levels() is not None:
            return "inside groups of n:m `lamp` is `magnitude`: choose that, or the global scope"
        return None

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the scores as float64."""
        return lamp_scores(problem.weight_OI)


def lamp_scores(weight_OI: Tensor) -> Tensor:
    """Return the LAMP score of every weight in [0, 1], float64; of equal weights the lower input's is less."""
    squares_N = weight_OI.T.reshape(-1).double().square()
    ordered_N, order_N = squares_N.sort(stable=True)
    # On the CPU: a running sum of floats has no deterministic kernel on a GPU.
    not_smaller_N = ordered_N.cpu().flip(0).cumsum(dim=0).flip(0).to(ordered_N.device)
    scores_N = torch.empty_like(squares_N)
    scores_N[order_N] = ordered_N / not_smaller_N.clamp_min(torch.finfo(torch.float64).tiny)
    return scores_N.view(weight_OI.shape[1], weight_OI.shape[0]).T.contiguous()
