"""Wanda: the absolute value times the norm of the input that it multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Cost, Criterion, LayerProblem
from espalier.methods.statistic import Declared
from espalier.methods.statistics.input_norms import InputNorms

if TYPE_CHECKING:
    from torch import Tensor


class Wanda(Criterion):
    """Scores a weight by |W_ij| * ||X_j||_2 over all calibration tokens."""

    summary: ClassVar[str] = "Small weights on quiet inputs go first; one pass over the calibration text."
    paper: ClassVar[str] = "Sun et al. 2023 (arXiv 2306.11695)"
    cost: ClassVar[Cost] = "low"
    statistics: ClassVar[Declared] = (InputNorms,)

    method: Literal["wanda"] = "wanda"

    def score(self, problem: LayerProblem) -> Tensor:
        """Return |W| * ||X|| in the precision of the norms, so that near ties fall as in exact arithmetic."""
        norm_I = problem.statistics[InputNorms]
        return problem.weight_OI.abs().to(norm_I.dtype) * norm_I
