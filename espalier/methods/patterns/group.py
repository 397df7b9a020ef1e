"""Groups: g consecutive inputs of a row are kept or pruned together."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Pattern
from espalier.methods.patterns.unstructured import Scope, keep_highest

if TYPE_CHECKING:
    from torch import Tensor


class Group(Pattern):
    """Prunes exactly round(sparsity * groups) groups per scope; a group scores the sum of its weights' scores."""

    summary: ClassVar[str] = "Blocks of 1 x g weights go together; block-sparse kernels read them."
    paper: ClassVar[str] = "GQSA (arXiv 2412.17560) for the shape"
    constraints: ClassVar[tuple[str, ...]] = ("g divides the number of inputs of every pruned matrix",)

    kind: Literal["group"] = "group"
    g: int = Field(4, ge=2, le=4096, description="Consecutive inputs of a row in a group.")
    scope: Scope = Field("row", description="Where the budget holds.")

    def label(self) -> str:
        """Return `group/1x4/row`."""
        return f"{self.kind}/1x{self.g}/{self.scope}"

    def refusal(self, num_inputs: int) -> str | None:
        """Refuse inputs that do not fall into whole groups."""
        return f"{num_inputs} inputs do not divide into groups of {self.g}" if num_inputs % self.g else None

    def step(self, shape: tuple[int, int]) -> float:
        """Return one group of the row, or of the matrix."""
        return self.g / (shape[1] if self.scope == "row" else shape[0] * shape[1])

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask."""
        group_ON = score_OI.reshape(score_OI.shape[0], -1, self.g).sum(dim=2)
        return keep_highest(group_ON, sparsity=sparsity, scope=self.scope).repeat_interleave(self.g, dim=1)
