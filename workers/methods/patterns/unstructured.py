"""Unstructured: the budget holds over every row, over the matrix, or over the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from workers.methods.base import Pattern, torch

if TYPE_CHECKING:
    from torch import Tensor


class Unstructured(Pattern):
    """Prunes exactly round(sparsity * n) weights per scope."""

    summary: ClassVar[str] = "Any weight may go; the budget holds per row, per matrix or over the whole model."
    paper: ClassVar[str] = "Sun et al. 2023 (arXiv 2306.11695) for the row scope"

    kind: Literal["unstructured"] = "unstructured"
    scope: Literal["row", "matrix", "global"] = "row"

    @property
    def spans_model(self) -> bool:
        """True for the global scope."""
        return self.scope == "global"

    def label(self) -> str:
        """`unstructured/row`."""
        return f"{self.kind}/{self.scope}"

    def line(self, shape: tuple[int, int]) -> int:
        """A row, or the matrix."""
        return shape[1] if self.scope == "row" else shape[0] * shape[1]

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask of one matrix; for the global scope `sparsity` is this matrix's share of the model's."""
        if self.scope == "row":
            return _keep_highest(score_OI, num_pruned=round(sparsity * score_OI.shape[1]))
        # By inputs first, so that of equal scores the lower input index goes first, whatever its row.
        line = score_OI.T.reshape(1, -1)
        mask = _keep_highest(line, num_pruned=round(sparsity * line.shape[1]))
        return mask.view(score_OI.shape[1], score_OI.shape[0]).T.contiguous()


def _keep_highest(score_LN: Tensor, *, num_pruned: int) -> Tensor:
    """Prune exactly `num_pruned` of every line; of equal scores the first goes."""
    order = score_LN.sort(dim=1, stable=True).indices
    mask = torch.ones_like(score_LN, dtype=torch.bool)
    return mask.scatter_(1, order[:, :num_pruned], False)
