"""OWL: blocks with many outlying scores are pruned less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.allocation import refuse_global, shift_to_mean
from espalier.methods.base import Axes, Budget, Cost, MatrixFacts
from espalier.methods.statistic import Declared
from espalier.methods.statistics.input_norms import InputNorms

if TYPE_CHECKING:
    from torch import Tensor


class Owl(Budget):
    """Gives a block s - (its outlier ratio, scaled to [0, 2 bound] over all blocks, less the mean of those)."""

    summary: ClassVar[str] = "Blocks with more outliers keep more; worth it at 60 % and above."
    paper: ClassVar[str] = "Yin et al. 2024 (arXiv 2310.05175)"
    cost: ClassVar[Cost] = "low"
    statistics: ClassVar[Declared] = (InputNorms,)
    constraints: ClassVar[tuple[str, ...]] = (
        "a tokenizer, for one more pass over the calibration text through the dense model",
        "not with the global scope; with n:m it moves n from block to block",
    )

    kind: Literal["owl"] = "owl"
    threshold: float = Field(5.0, gt=0, le=1e4, description="M: a score is outlying above M times its block's mean.")
    bound: float = Field(0.08, ge=0, le=0.5, description="Lambda: sparsities differ by at most twice so much.")

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse the global scope."""
        return refuse_global(axes, self.kind)

    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the sparsities, equal within a block."""
        blocks: dict[int, list[MatrixFacts]] = {}
        for matrix in matrices:
            blocks.setdefault(matrix.block, []).append(matrix)
        ratios = {block: outlier_ratio(inside, self.threshold) for block, inside in blocks.items()}
        low, high = min(ratios.values()), max(ratios.values())
        scale = 2 * self.bound / (high - low) if high > low else 0.0
        raw = {matrix.name: sparsity - (ratios[matrix.block] - low) * scale for matrix in matrices}
        return shift_to_mean(raw, matrices, sparsity)


def outlier_ratio(matrices: Sequence[MatrixFacts], threshold: float) -> float:
    """Return the fraction of |W_ij| * ||X_j|| of a block's matrices that is above `threshold` times their mean."""
    count = sum(matrix.size for matrix in matrices)
    limit = threshold * sum(float(score_OI.sum()) for score_OI in _scores(matrices)) / count
    return sum(int((score_OI > limit).sum()) for score_OI in _scores(matrices)) / count


def _scores(matrices: Sequence[MatrixFacts]) -> Iterator[Tensor]:
    for matrix in matrices:
        yield matrix.load().abs().double() * matrix.statistics[InputNorms]
