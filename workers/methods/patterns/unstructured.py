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

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask of one matrix; the global scope is solved over the model by the walk."""
        raise NotImplementedError
