"""Sizes of a model and of its removable units, and the size without them; arithmetic, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict

from espalier.methods.structured import PartKind
from espalier.recipe.steps.structure import DepthFields, StructureStep

PLURAL: Final[dict[PartKind, str]] = {
    "depth": "blocks",
    "neurons": "neurons",
    "kv_groups": "groups of heads",
    "experts": "experts",
}
"""What units of a kind are called."""
HEADER_BYTES = 128
"""Of a safetensors header, at most, for one tensor."""


class Part(BaseModel):
    """Units of one kind: blocks of the model, or what every block has equally many of."""

    model_config = ConfigDict(frozen=True)

    kind: PartKind
    count: int
    parameters: int = 0
    """Of one unit in all blocks together; of all blocks, for `depth`."""
    least: int = 1
    """Fewest that a model can have."""
    fits: tuple[int, ...] | None = None
    """Numbers of units that a stock configuration can have, ascending; None where it can have any."""
    carries_bias: bool = True
    """Whether a bias can carry what the units that go gave on average."""
    refusal: str | None = None
    """Why none of them can go."""
    no_stand_in: str | None = None
    """Of blocks: why no matrix can stand in for those that go."""


class Sizes(BaseModel):
    """A model in numbers."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    head: int
    """Parameters outside the blocks that every token is multiplied with."""
    tensors: int
    parts: tuple[Part, ...]

    def part(self, kind: str) -> Part | None:
        """Return the units of a kind; None for a model without such."""
        return next((part for part in self.parts if part.kind == kind), None)

    def after(self, steps: Sequence[StructureStep]) -> RemainingSizes:
        """Return the sizes that remain after some steps; blocks that differ count as their mean."""
        depth = self.part("depth")
        assert depth is not None
        counts = {part.kind: part.count for part in self.parts}
        for step in steps:
            now = counts[step.pattern.kind]
            if isinstance(step, DepthFields):
                counts["depth"] = now - step.gone(now)
            else:
                counts[step.pattern.kind] = step.pattern.kept(now, sparsity=step.sparsity)
        gone = sum((part.count - counts[part.kind]) * part.parameters for part in self.parts if part.kind != "depth")
        inside = (depth.parameters - gone) * counts["depth"] / depth.count
        outside = self.parameters - depth.parameters
        return RemainingSizes(
            parameters=inside + outside,
            tensors=self.tensors * counts["depth"] // depth.count + 8,
            blocks_fraction=counts["depth"] / depth.count,
            products_fraction=(inside + self.head) / (depth.parameters + self.head),
        )


class RemainingSizes(BaseModel):
    """Sizes of the model after some steps."""

    parameters: float
    tensors: int
    blocks_fraction: float
    products_fraction: float
    """Of the multiplications per token, as a fraction of the whole model's."""

    def bytes(self, itemsize: int) -> float:
        """Return the size of the dense files, at most."""
        return self.parameters * itemsize + self.tensors * HEADER_BYTES
