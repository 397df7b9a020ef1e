"""Tiles: the matrix falls into rectangles; those that pruning would hurt most stay dense, the others are pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.methods.base import Pattern
from espalier.methods.lazy_torch import torch
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.unstructured import keep_highest

if TYPE_CHECKING:
    from torch import Tensor


class Tiles(Pattern):
    """Leaves the worst tiles dense and meets the sparsity with the rest: n:m in every group, or any weight.

    A tile is as bad as the mean score that pruning all tiles alike would cost it. With `rest: unstructured` exactly
    round(sparsity * weights) go; with n:m so many tiles stay dense as come closest to the sparsity.
    """

    summary: ClassVar[str] = "Dense where it hurts, n:m or unstructured elsewhere; a budget between dense and 2:4."
    paper: ClassVar[str] = "PATCH (arXiv 2509.23410), with tiles ranked instead of learned"
    constraints: ClassVar[tuple[str, ...]] = ("with n:m, m divides the number of inputs of every pruned matrix",)

    kind: Literal["tiles"] = "tiles"
    dense: float = Field(0.1, ge=0, lt=1, description="Share of tiles left dense.")
    rows: int = Field(64, ge=1, le=65_536, description="Outputs in a tile; the last tile may be smaller.")
    columns: int = Field(64, ge=1, le=65_536, description="Inputs in a tile; the last tile may be smaller.")
    rest: Literal["unstructured", "nm"] = Field("unstructured", description="What the other tiles become.")
    n: int = Field(2, ge=1, le=256, description="With n:m: weights kept in every group.")
    m: int = Field(4, ge=2, le=256, description="With n:m: consecutive inputs in a group.")

    @model_validator(mode="after")
    def _groups_fit_into_tiles(self) -> Self:
        if self.n > self.m:
            raise PydanticCustomError("n_above_m", "`n` counts the weights kept of every `m`: it cannot be larger")
        if self.rest == "nm" and self.columns % self.m:
            raise PydanticCustomError(
                "m_does_not_divide", "`m` must divide `columns`: a group lies in one tile", {"at": "columns"}
            )
        return self

    def label(self) -> str:
        """Return `tiles/0.1/2:4`."""
        return f"{self.kind}/{self.dense:g}/{f'{self.n}:{self.m}' if self.rest == 'nm' else self.rest}"

    def implied_sparsity(self) -> float | None:
        """Return (1 - dense) (1 - n/m); unstructured tiles take any sparsity."""
        return (1 - self.dense) * (1 - self.n / self.m) if self.rest == "nm" else None

    def ceiling(self) -> float:
        """Return the sparsity that the pruned tiles can give."""
        return 1 - self.n / self.m if self.rest == "nm" else 1 - self.dense

    def refusal(self, num_inputs: int) -> str | None:
        """Refuse, with n:m, inputs that do not fall into whole groups."""
        return NOfM(n=self.n, m=self.m).refusal(num_inputs) if self.rest == "nm" else None

    def step(self, shape: tuple[int, int]) -> float:
        """Return one weight of the matrix; with n:m what one tile loses."""
        if self.rest == "unstructured":
            return super().step(shape)
        return (1 - self.n / self.m) * min(1.0, self.rows * self.columns / (shape[0] * shape[1]))

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask."""
        num_pruned = round(sparsity * score_OI.numel())
        if self.rest == "nm":
            mask_OI = NOfM(n=self.n, m=self.m).keep(score_OI, sparsity=1 - self.n / self.m)
            order_T = self._worst_first(score_OI, mask_OI)
            left_T = int((~mask_OI).sum()) - self._sums(~mask_OI)[order_T].cumsum(dim=0)
            left_T = torch.cat([left_T.new_tensor([int((~mask_OI).sum())]), left_T])
            return mask_OI | self._area(order_T[: int((left_T - num_pruned).abs().argmin())], score_OI)
        alike_OI = keep_highest(score_OI, sparsity=min(1.0, sparsity / (1 - self.dense)), scope="row")
        order_T = self._worst_first(score_OI, alike_OI)
        room_T = score_OI.numel() - self._sums(torch.ones_like(alike_OI))[order_T].cumsum(dim=0)
        num_dense = min(round(self.dense * len(order_T)), int((room_T >= num_pruned).sum()))
        dense_OI = self._area(order_T[:num_dense], score_OI)
        return keep_highest(score_OI.masked_fill(dense_OI, torch.inf), sparsity=sparsity, scope="matrix")

    def _worst_first(self, score_OI: Tensor, mask_OI: Tensor) -> Tensor:
        """Row-major indices of the tiles by the mean score that the mask costs; of equal ones the last is first."""
        lost_T = self._sums(score_OI.masked_fill(mask_OI, 0)) / self._sums(torch.ones_like(mask_OI))
        return lost_T.sort(stable=True).indices.flip(0)

    def _sums(self, values_OI: Tensor) -> Tensor:
        """The sum over every tile, float64, on the CPU: running sums of them have no deterministic kernel on a GPU."""
        outputs, inputs = values_OI.shape
        padding = (0, -inputs % self.columns, 0, -outputs % self.rows)
        padded = torch.nn.functional.pad(values_OI.double(), padding)
        across = padded.shape[1] // self.columns
        return padded.view(-1, self.rows, across, self.columns).sum(dim=(1, 3)).flatten().cpu()

    def _area(self, tiles_T: Tensor, like_OI: Tensor) -> Tensor:
        """True on the weights of the given tiles."""
        outputs, inputs = like_OI.shape
        across = -(-inputs // self.columns)
        chosen = torch.zeros(-(-outputs // self.rows) * across, dtype=torch.bool)
        chosen[tiles_T] = True
        wide = chosen.view(-1, across).repeat_interleave(self.rows, dim=0).repeat_interleave(self.columns, dim=1)
        return wide[:outputs, :inputs].to(like_OI.device)
