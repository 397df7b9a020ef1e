"""RIA: a weight's share of its row and of its column, times the norm of its input to a power."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, Criterion, LayerProblem
from espalier.methods.statistic import Declared
from espalier.methods.statistics.input_norms import InputNorms

if TYPE_CHECKING:
    from torch import Tensor


class Ria(Criterion):
    """Scores a weight by (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2 ** exponent."""

    summary: ClassVar[str] = "Weights small beside their row's and column's others go first; keeps channels alive."
    paper: ClassVar[str] = "Zhang et al. 2024 (Plug-and-Play, ICLR)"
    cost: ClassVar[Cost] = "low"
    statistics: ClassVar[Declared] = (InputNorms,)

    method: Literal["ria"] = "ria"
    exponent: float = Field(0.5, ge=0, le=4, description="Power of the input norm.")

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the scores as float64; the weights of an empty row or column score zero."""
        size_OI = problem.weight_OI.abs().double()
        tiny = 2.0**-1022  # of a sum that is zero every share is zero
        column_I = size_OI.sum(dim=0).clamp_min(tiny)
        row_O = size_OI.sum(dim=1, keepdim=True).clamp_min(tiny)
        return (size_OI / column_I + size_OI / row_O) * problem.statistics[InputNorms].double() ** self.exponent
