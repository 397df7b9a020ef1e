"""n:m: n weights kept of every m consecutive inputs, the form that sparse tensor cores run (2:4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.methods.base import Pattern
from espalier.methods.lazy_torch import torch
from espalier.methods.unique_results import scatter_unique

if TYPE_CHECKING:
    from torch import Tensor


class NOfM(Pattern):
    """Keeps the n highest scores of every m consecutive inputs of a row."""

    summary: ClassVar[str] = "n kept of every m consecutive inputs; 2:4 runs faster on sparse tensor cores."
    paper: ClassVar[str] = "Mishra et al. 2021 (arXiv 2104.08378)"
    constraints: ClassVar[tuple[str, ...]] = ("m divides the number of inputs of every pruned matrix",)

    kind: Literal["nm"] = "nm"
    n: int = Field(2, ge=1, le=256, description="Weights kept in every group.")
    m: int = Field(4, ge=2, le=256, description="Consecutive inputs in a group.")

    @model_validator(mode="after")
    def _n_is_at_most_m(self) -> Self:
        if self.n > self.m:
            raise PydanticCustomError("n_above_m", "`n` counts the weights kept of every `m`: it cannot be larger")
        return self

    def implied_sparsity(self) -> float:
        """Return 1 - n/m."""
        return 1 - self.n / self.m

    def refusal(self, num_inputs: int) -> str | None:
        """Refuse inputs that do not fall into whole groups."""
        return f"{num_inputs} inputs do not divide into groups of {self.m}" if num_inputs % self.m else None

    def label(self) -> str:
        """Return `2:4`."""
        return f"{self.n}:{self.m}"

    def label_at(self, sparsity: float) -> str:
        """Return `3:8`: a budget moves n."""
        return f"{self.m - round(sparsity * self.m)}:{self.m}"

    def line(self, shape: tuple[int, int]) -> int:
        """Return the size of a group."""
        return self.m

    def ceiling(self) -> float:
        """Return the sparsity at which one weight of every group stays."""
        return 1 - 1 / self.m

    def levels(self) -> int:
        """Return m: a budget may move n, not m."""
        return self.m

    def step(self, shape: tuple[int, int]) -> float:
        """Return one weight of every group."""
        return 1 / self.m

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask; `sparsity` is 1 - n/m, or what a budget made of it."""
        num_pruned = round(sparsity * self.m)
        groups = score_OI.reshape(score_OI.shape[0], -1, self.m)
        order = groups.sort(dim=2, stable=True).indices
        mask = torch.ones_like(groups, dtype=torch.bool)
        return scatter_unique(mask, order[:, :, :num_pruned], False).view(score_OI.shape)
