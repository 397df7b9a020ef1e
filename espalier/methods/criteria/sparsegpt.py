"""The optimal brain surgeon's score, with the update that belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, Criterion, LayerProblem
from espalier.methods.quadratic import inverse
from espalier.methods.statistic import Declared
from espalier.methods.statistics.gram import Gram

if TYPE_CHECKING:
    from torch import Tensor


class SparseGptScore(Criterion):
    """Scores a weight by w_ij^2 / [H^-1]_jj, H = X^T X damped: the error it leaves when all others make up for it."""

    summary: ClassVar[str] = "What a weight's loss costs once the others have adapted; brings SparseGPT's update."
    paper: ClassVar[str] = "Frantar & Alistarh 2023 (arXiv 2301.00774); Hassibi & Stork 1992 for the score"
    cost: ClassVar[Cost] = "low"
    statistics: ClassVar[Declared] = (Gram,)
    own_update: ClassVar[str | None] = "sparsegpt"
    constraints: ClassVar[tuple[str, ...]] = (
        "with no update asked for, `sparsegpt` is: it scores block by block, on weights that are already mended",
    )

    method: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(0.01, gt=0, le=10, description="Ridge, as a share of the mean of the Gram diagonal.")

    def score(self, problem: LayerProblem) -> Tensor:
        """Return the scores in the precision of the factor; an input that is always zero scores next to nothing."""
        inverse_II = inverse(problem, self.damping)
        return problem.weight_OI.to(inverse_II.dtype).square() / inverse_II.diagonal()
