"""Sliding-window attention in some blocks, full attention in the others."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.fields import BlockIndex, Count, LayerTypes
from espalier.families.shared.llama_like import LlamaLike


def fit_layers(kinds: LayerTypes | None, blocks: int, *, windowed: bool) -> None:
    """Refuse `layer_types` that do not fit the number of blocks, or slide without a window."""
    if kinds is not None and len(kinds) != blocks:
        raise PydanticCustomError("bad_config", "layer_types does not have one entry per block")
    if kinds is not None and "sliding_attention" in kinds and not windowed:
        raise PydanticCustomError("bad_config", "layer_types slides, and no sliding_window is in use")


class UpperWindows(LlamaLike):
    """Families whose upper blocks may see a window alone."""

    per_block: ClassVar[frozenset[str]] = frozenset({"layer_types"})

    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: BlockIndex = 28
    layer_types: LayerTypes | None = None

    @model_validator(mode="after")
    def _one_type_per_block(self) -> UpperWindows:
        windowed = self.use_sliding_window and self.sliding_window is not None
        fit_layers(self.layer_types, self.num_hidden_layers, windowed=windowed)
        return self
