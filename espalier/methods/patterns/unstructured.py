"""Unstructured: the budget holds over every row, over the matrix, or over the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Axes, Pattern
from espalier.methods.lazy_torch import torch
from espalier.methods.statistic import need_of
from espalier.methods.unique_results import unique_result

if TYPE_CHECKING:
    from torch import Tensor

FEW_LINES = 64
"""A GPU selects from a line with a single block of threads: of fewer lines than this all of it sorts faster."""

Scope = Literal["row", "matrix"]
"""The part of a matrix over which a budget holds."""


class Unstructured(Pattern):
    """Prunes exactly round(sparsity * n) weights per scope."""

    summary: ClassVar[str] = "Any weight may go; the budget holds per row, per matrix or over the whole model."
    paper: ClassVar[str] = "Sun et al. 2023 (arXiv 2306.11695) for the row scope"
    constraints: ClassVar[tuple[str, ...]] = (
        "the global scope compares scores of the whole model, taken on the dense model's activations",
        "the global scope goes with budget uniform, and with criteria that read no Gram matrix",
    )

    kind: Literal["unstructured"] = "unstructured"
    scope: Literal[Scope, "global"] = "row"

    @property
    def spans_model(self) -> bool:
        """True for the global scope."""
        return self.scope == "global"

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse the global scope where the scores of the whole model cannot be held."""
        if self.spans_model and need_of(axes.criterion.statistics) == "gram":
            return "the global scope would need the Gram matrices of the whole model at once: use scope matrix"
        return None

    def label(self) -> str:
        """Return `unstructured/row`."""
        return f"{self.kind}/{self.scope}"

    def line(self, shape: tuple[int, int]) -> int:
        """Return the weights of a row, or of the matrix."""
        return shape[1] if self.scope == "row" else shape[0] * shape[1]

    def step(self, shape: tuple[int, int]) -> float:
        """Return one weight of the row, or of the matrix."""
        return 1 / self.line(shape)

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask of one matrix; for the global scope `sparsity` is this matrix's share of the model's."""
        return keep_highest(score_OI, sparsity=sparsity, scope="row" if self.scope == "row" else "matrix")


def keep_highest(score_ON: Tensor, *, sparsity: float, scope: Scope) -> Tensor:
    """Prune exactly round(sparsity * n) of every row, or of the matrix; of equal scores the lower column goes first."""
    if scope == "row":
        return without_lowest(score_ON, num_pruned=round(sparsity * score_ON.shape[1]))
    # By columns first, so that of equal scores the lower column goes first, whatever its row.
    line = score_ON.T.reshape(1, -1)
    mask = without_lowest(line, num_pruned=round(sparsity * line.shape[1]))
    return mask.view(score_ON.shape[1], score_ON.shape[0]).T.contiguous()


def without_lowest(score_LN: Tensor, *, num_pruned: int) -> Tensor:
    """Prune exactly `num_pruned` of every line; of equal scores the first goes."""
    if num_pruned == 0:
        return torch.ones_like(score_LN, dtype=torch.bool)
    last_L1 = _threshold(score_LN, num_pruned)
    mask = score_LN > last_L1
    staying_L1 = score_LN.shape[1] - num_pruned - mask.sum(dim=1, keepdim=True)
    if score_LN.device.type != "cpu" or bool(staying_L1.any()):
        # Some scores are equal to the threshold and stay: the last of them.
        tied = score_LN == last_L1
        mask |= tied & (tied.flip(1).cumsum(dim=1).flip(1) <= staying_L1)
    return mask


def _threshold(score_LN: Tensor, num_pruned: int) -> Tensor:
    """Return the highest score that goes, of every line (L, 1)."""
    # Selecting is several times faster than sorting, and solvers come here in every iteration.
    if score_LN.device.type != "cpu" and len(score_LN) < FEW_LINES:
        return score_LN.sort(dim=1).values[:, num_pruned - 1, None]
    with unique_result(score_LN.device):  # the value is unique, and of equal scores the index is not read
        return score_LN.kthvalue(num_pruned, dim=1, keepdim=True).values
