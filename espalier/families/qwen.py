"""Qwen 2 and 3: Llama with biases or norms on queries and keys, and a sliding window in the upper blocks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from espalier.families.base import Count, HeadSize, LayerTypes, fit_layers
from espalier.families.llama import LlamaLike


class Qwen(LlamaLike):
    """What Qwen 2 and 3 share."""

    num_key_value_heads: Count | None = 32
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: Annotated[int, Field(ge=0, le=4096)] = 28
    layer_types: LayerTypes | None = None

    @model_validator(mode="after")
    def _one_type_per_block(self) -> Qwen:
        windowed = self.use_sliding_window and self.sliding_window is not None
        fit_layers(self.layer_types, self.num_hidden_layers, windowed=windowed)
        return self


class Qwen2(Qwen):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    model_type: Literal["qwen2"]

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (True, False)


class Qwen3(Qwen):
    """Qwen 3, dense: norms on queries and keys."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    query_key_norms: ClassVar[bool] = True
    notes: ClassVar[str] = "norms of queries and keys belong to the attention half"

    model_type: Literal["qwen3"]
    head_dim: HeadSize | None = 128
    attention_bias: bool = False

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)
