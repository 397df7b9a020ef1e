"""DaSS: in a gated MLP a weight counts as much as the neuron that it feeds is heard by the projection after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, Criterion, LayerProblem
from espalier.methods.statistic import Declared
from espalier.methods.statistics.input_norms import InputNorms
from espalier.methods.statistics.neuron_norms import NeuronNorms

if TYPE_CHECKING:
    from torch import Tensor


class Dass(Criterion):
    """Scores |W_ij| * ||Z_i||_2 ** exponent in gate and up projections, |W_ij| * ||X_j||_2 elsewhere.

    Z is what the down projection reads: the product of the gate's and the up projection's outputs, neuron by neuron.
    """

    summary: ClassVar[str] = "Wanda that looks at a gated MLP's neurons instead of its inputs; one pass over the text."
    paper: ClassVar[str] = "Guo et al. 2024 (arXiv 2405.01943)"
    cost: ClassVar[Cost] = "low"
    statistics: ClassVar[Declared] = (InputNorms, NeuronNorms)
    constraints: ClassVar[tuple[str, ...]] = (
        "attention, down projections and MLPs without a gate are scored as by wanda",
        "where budgets hold inside rows (row scope, n:m), gate and up are pruned by magnitude: a row has one neuron",
        "the matrix and the global scope let neurons compete",
    )

    method: Literal["dass"] = "dass"
    exponent: float = Field(0.5, ge=0, le=4, description="Power of the neuron's activation norm.")

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the scores as float64."""
        size_OI = problem.weight_OI.abs().double()
        neuron_norm_O = problem.statistics.get(NeuronNorms)
        if neuron_norm_O is None:  # no gate behind this matrix
            return size_OI * problem.statistics[InputNorms]
        return size_OI * neuron_norm_O.double()[:, None] ** self.exponent
