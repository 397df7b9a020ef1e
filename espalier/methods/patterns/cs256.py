"""CS256: a multiple of 8 weights kept in every 256 consecutive inputs of a row, so that an index fits a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from espalier.methods.base import Pattern
from espalier.methods.lazy_torch import torch
from espalier.methods.patterns.unstructured import keep_highest
from espalier.methods.unique_results import scatter_unique

if TYPE_CHECKING:
    from torch import Tensor

TILE = 256
STEP = 8


class Cs256(Pattern):
    """Keeps the best multiples of 8 of every 256 inputs of a row; tiles in one column of tiles share a budget.

    In a tile the scores are sorted and cut into eights; an eight scores its sum, and of all eights in a column of
    tiles exactly round(sparsity * eights) go.
    """

    summary: ClassVar[str] = "Nearly unstructured, in a layout whose indices fit one byte: 8k kept of every 256."
    paper: ClassVar[str] = "CS256 (SLLM workshop 2025); the mask's shape only, no storage format is claimed"
    constraints: ClassVar[tuple[str, ...]] = (
        "8 divides the number of inputs of every pruned matrix; a last tile may be shorter than 256",
    )

    kind: Literal["cs256"] = "cs256"

    def label(self) -> str:
        """Return `cs256`."""
        return self.kind

    def refusal(self, num_inputs: int) -> str | None:
        """Refuse inputs that do not fall into whole eights."""
        return f"{num_inputs} inputs are no multiple of {STEP}" if num_inputs % STEP else None

    def step(self, shape: tuple[int, int]) -> float:
        """Return one eight of every column of tiles."""
        return STEP * -(-shape[1] // TILE) / (shape[0] * shape[1])

    def keep(self, score_OI: Tensor, *, sparsity: float) -> Tensor:
        """Return the mask."""
        return torch.cat([_keep_column(tiles_OT, sparsity) for tiles_OT in torch.split(score_OI, TILE, dim=1)], dim=1)


def _keep_column(score_OT: Tensor, sparsity: float) -> Tensor:
    ascending = score_OT.sort(dim=1, stable=True)
    eights_ON = ascending.values.reshape(len(score_OT), -1, STEP).sum(dim=2)
    # Sums rise along a tile, so its lowest eights, at its beginning, are pruned.
    kept_ON = keep_highest(eights_ON, sparsity=sparsity, scope="matrix")
    mask_OT = torch.empty_like(score_OT, dtype=torch.bool)
    return scatter_unique(mask_OT, ascending.indices, kept_ON.repeat_interleave(STEP, dim=1))
