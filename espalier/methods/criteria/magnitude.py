"""Magnitude: the absolute value, the data-free baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Criterion, InputStatistics

if TYPE_CHECKING:
    import torch


class Magnitude(Criterion):
    """Scores a weight by its absolute value."""

    summary: ClassVar[str] = "Smallest absolute weights go first; needs no calibration."
    paper: ClassVar[str] = "Janowsky 1989; Han et al. 2015 (arXiv 1506.02626)"

    method: Literal["magnitude"] = "magnitude"

    def score(
        self, weight_OI: torch.Tensor, statistics: InputStatistics, *, generator: torch.Generator
    ) -> torch.Tensor:
        """Return |W|."""
        return weight_OI.abs()
