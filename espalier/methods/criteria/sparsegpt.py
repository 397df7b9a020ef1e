"""The optimal brain surgeon's score, with the update that belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, Criterion, InputStatistics, Need
from espalier.methods.lazy_torch import torch
from espalier.methods.quadratic import cholesky

if TYPE_CHECKING:
    from torch import Generator, Tensor


class SparseGptScore(Criterion):
    """Scores a weight by w_ij^2 / [H^-1]_jj, H = X^T X damped: the error it leaves when all others make up for it."""

    summary: ClassVar[str] = "What a weight's loss costs once the others have adapted; brings SparseGPT's update."
    paper: ClassVar[str] = "Frantar & Alistarh 2023 (arXiv 2301.00774); Hassibi & Stork 1992 for the score"
    cost: ClassVar[Cost] = "low"
    needs: ClassVar[Need] = "gram"
    own_update: ClassVar[str | None] = "sparsegpt"
    constraints: ClassVar[tuple[str, ...]] = (
        "with no update asked for, `sparsegpt` is: it scores block by block, on weights that are already mended",
    )

    method: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(0.01, gt=0, le=10, description="Ridge, as a share of the mean of the Gram diagonal.")

    def score(self, weight_OI: Tensor, statistics: InputStatistics, *, generator: Generator) -> Tensor:
        """Return the scores in the precision of the factor; an input that is always zero scores next to nothing."""
        assert statistics.gram_II is not None
        inverse_II = torch.cholesky_inverse(cholesky(statistics.gram_II, self.damping))
        return weight_OI.to(inverse_II.dtype).square() / inverse_II.diagonal()
