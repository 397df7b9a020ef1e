"""Falcon: sequential or parallel halves, with one norm or one for each; ALiBi or rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.fields import Activation, Count, Epsilon, Positions, Ratio
from espalier.families.shared.gpt_like import GptLike
from espalier.families.shared.rotary import Rotary


class Falcon(GptLike, Rotary):
    """Falcon 7B (one norm for both halves), 40B (a norm for each), RW (one half after the other)."""

    architecture: ClassVar[str] = "FalconForCausalLM"
    other_keys: ClassVar[Mapping[str, str]] = {"n_embed": "hidden_size"}
    notes: ClassVar[str] = "attention and feed-forward net side by side, in sequence in the RW models"
    width_field: ClassVar[str] = "ffn_hidden_size"
    readers: ClassVar[Mapping[str, str]] = {"neurons": "mlp.dense_4h_to_h"}

    model_type: Literal["falcon"] = "falcon"
    max_position_embeddings: Positions = 2048
    tie_word_embeddings: bool = True
    num_kv_heads: Count | None = None
    num_ln_in_parallel_attn: Literal[1, 2] | None = None
    ffn_hidden_size: Count | None = None
    layer_norm_epsilon: Epsilon = 1e-5
    hidden_dropout: Ratio = 0.0
    alibi: bool = False
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    activation: Activation = "gelu"

    @model_validator(mode="after")
    def _known_arrangement(self) -> Falcon:
        if self.new_decoder_architecture and not self.parallel_attn:
            raise PydanticCustomError("bad_config", "new_decoder_architecture needs parallel_attn")
        if self.num_ln_in_parallel_attn == 2 and not self.new_decoder_architecture:
            raise PydanticCustomError("bad_config", "num_ln_in_parallel_attn of 2 needs new_decoder_architecture")
        if self.num_attention_heads % self.kv_heads:
            raise PydanticCustomError("bad_config", "num_kv_heads does not divide num_attention_heads")
        if not (self.new_decoder_architecture or self.multi_query or self.kv_heads == self.num_attention_heads):
            raise PydanticCustomError("bad_config", "num_kv_heads needs new_decoder_architecture")
        return self

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads of the new architecture."""
        return self.num_kv_heads or self.num_attention_heads

    @property
    def keys_width(self) -> int:
        """Outputs of all keys together, and of all values."""
        if self.new_decoder_architecture:
            return self.kv_heads * self.head_size
        return self.head_size if self.multi_query else self.hidden_size

    @property
    def biases(self) -> tuple[bool, bool]:
        """Whether the attention's matrices have biases, and whether the feed-forward net's have."""
        return (self.bias, self.bias)

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms of a block."""
        if not self.parallel_attn:
            return super().norms
        two = self.new_decoder_architecture and self.num_ln_in_parallel_attn != 1
        return ("ln_attn", "ln_mlp") if two else ("input_layernorm",)
