"""Magnitude: the absolute value, the data-free baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Criterion, LayerProblem

if TYPE_CHECKING:
    from torch import Tensor


class Magnitude(Criterion):
    """Scores a weight by its absolute value."""

    summary: ClassVar[str] = "Smallest absolute weights go first; needs no calibration."
    paper: ClassVar[str] = "Janowsky 1989; Han et al. 2015 (arXiv 1506.02626)"

    method: Literal["magnitude"] = "magnitude"

    def score(self, problem: LayerProblem) -> Tensor:
        """Return |W|."""
        return problem.weight_OI.abs()
