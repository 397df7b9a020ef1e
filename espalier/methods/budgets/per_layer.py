"""Per layer: the user says what every block or matrix loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.methods.allocation import mean, refuse_fixed_sparsity, refuse_global
from espalier.methods.base import Axes, Budget, MatrixFacts

Share = Annotated[float, Field(ge=0, lt=1)]
Suffix = Annotated[str, Field(min_length=1, max_length=200)]

TOLERANCE = 0.005
"""Largest distance of the mean of the values from the request; values are followed as they are given."""


class PerLayer(Budget):
    """Takes a list with one share per block, or a mapping from module names, or their ends, to shares."""

    summary: ClassVar[str] = "Shares written out by hand, per block or per matrix."
    paper: ClassVar[str] = "none"
    constraints: ClassVar[tuple[str, ...]] = (
        "the mean over the pruned weights is `sparsity`",
        "not with n:m, the global scope, or tiles of n:m",
    )

    example: ClassVar[Mapping[str, Any]] = {"values": [0.5]}

    kind: Literal["per_layer"] = "per_layer"
    values: (
        Annotated[list[Share], Field(min_length=1, max_length=4096)]
        | Annotated[dict[Suffix, Share], Field(max_length=1500)]
    ) = Field(
        description="One share per block, or `model.layers.0.mlp.up_proj` or only `up_proj` -> share; "
        "the longest name that fits counts, and what no name fits gets `sparsity`."
    )

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse patterns that set shares themselves."""
        return refuse_global(axes, self.kind) or refuse_fixed_sparsity(axes, self.kind)

    def refusal(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> str | None:
        """Require that the values cover the blocks, name something, and have the mean requested."""
        if isinstance(self.values, list):
            num_blocks = 1 + max(matrix.block for matrix in matrices)
            if len(self.values) < num_blocks:
                return f"`values` has {len(self.values)} shares for {num_blocks} blocks"
        else:
            there = {name for matrix in matrices for name in _names(matrix.name)}
            idle = next((name for name in self.values if name not in there), None)
            if idle is not None:
                return f"`values` names {idle!r}, which fits no pruned matrix; names look like {matrices[0].name}"
        average = mean(self.sparsities(sparsity, matrices), matrices)
        if abs(average - sparsity) > TOLERANCE:
            return f"the shares have the mean {average:.4f} over the pruned weights and `sparsity` is {sparsity:.4f}"
        return None

    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the values."""
        if isinstance(self.values, list):
            return {matrix.name: self.values[matrix.block] for matrix in matrices}
        values = self.values
        return {
            matrix.name: next((values[name] for name in _names(matrix.name) if name in values), sparsity)
            for matrix in matrices
        }


def _names(module: str) -> Iterator[str]:
    """A module's name and its ends, longest first."""
    while module:
        yield module
        module = module.partition(".")[2]
