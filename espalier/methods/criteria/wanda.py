"""Wanda: the absolute value times the norm of the input that it multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost, Criterion, InputStatistics, Need

if TYPE_CHECKING:
    import torch


class Wanda(Criterion):
    """Scores a weight by |W_ij| * ||X_j||_2 over all calibration tokens."""

    summary: ClassVar[str] = "Small weights on quiet inputs go first; one pass over the calibration text."
    paper: ClassVar[str] = "Sun et al. 2023 (arXiv 2306.11695)"
    cost: ClassVar[Cost] = "low"
    needs: ClassVar[Need] = "norms"

    method: Literal["wanda"] = "wanda"

    def score(
        self, weight_OI: torch.Tensor, statistics: InputStatistics, *, generator: torch.Generator
    ) -> torch.Tensor:
        """Return |W| * ||X|| in the precision of the norms, so that near ties fall as in exact arithmetic."""
        assert statistics.norm_I is not None
        return weight_OI.abs().to(statistics.norm_I.dtype) * statistics.norm_I
