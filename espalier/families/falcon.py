"""BLOOM and Falcon: one map for queries, keys and values, positions by ALiBi or rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.base import (
    Activation,
    Count,
    Epsilon,
    EvenHeads,
    Map,
    Maps,
    Positions,
    Ratio,
    Shapes,
    layer_norm,
)
from espalier.families.rope import Rotary


class Bloom(EvenHeads):
    """BLOOM: positions by a slope on the attention (ALiBi), a norm behind the embeddings."""

    architecture: ClassVar[str] = "BloomForCausalLM"
    blocks: ClassVar[str] = "transformer.h"
    base: ClassVar[str] = "transformer."
    other_keys: ClassVar[Mapping[str, str]] = {
        "n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "max_position_embeddings": "seq_length",
    }  # fmt: skip
    notes: ClassVar[str] = "query, key and value are one matrix; each half adds the residual itself"
    whole: ClassVar[Mapping[str, str]] = {
        "neurons": "its configuration says four times the hidden size and nothing else",
        "kv_groups": "queries, keys and values are one matrix",
    }

    model_type: Literal["bloom"]
    num_hidden_layers: int = Field(alias="n_layer", ge=1, le=4096)
    num_attention_heads: Count = Field(alias="n_head")
    max_position_embeddings: Positions = Field(2048, alias="seq_length")
    tie_word_embeddings: bool = True
    layer_norm_epsilon: Epsilon = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: Ratio = 0.0
    pretraining_tp: Count = 1
    slow_but_exact: bool = False

    @model_validator(mode="after")
    def _maps_are_called(self) -> Bloom:
        if self.slow_but_exact and self.pretraining_tp > 1:  # their weights are read slice by slice instead
            raise PydanticCustomError(
                "bad_config",
                "slow_but_exact, with pretraining_tp beyond 1, passes by the maps that are pruned: set it to false",
            )
        return self

    def splits_in_halves(self) -> bool:
        """Tell whether attention and feed-forward net each add to the same stream of hidden states."""
        return not self.apply_residual_connection_post_layernorm

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden = self.hidden_size
        return {
            "self_attention.query_key_value": Map(3 * hidden, hidden, True),
            "self_attention.dense": Map(hidden, hidden, True),
            "mlp.dense_h_to_4h": Map(4 * hidden, hidden, True),
            "mlp.dense_4h_to_h": Map(hidden, 4 * hidden, True),
        }

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        return layer_norm("input_layernorm", "post_attention_layernorm", width=self.hidden_size)

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        table = {"transformer.word_embeddings.weight": (self.vocab_size, self.hidden_size)}
        names = ("transformer.word_embeddings_layernorm", "transformer.ln_f")
        return table | layer_norm(*names, width=self.hidden_size)


class Falcon(EvenHeads, Rotary):
    """Falcon 7B (one norm for both halves), 40B (a norm for each), RW (one half after the other)."""

    architecture: ClassVar[str] = "FalconForCausalLM"
    blocks: ClassVar[str] = "transformer.h"
    base: ClassVar[str] = "transformer."
    other_keys: ClassVar[Mapping[str, str]] = {"n_embed": "hidden_size"}
    notes: ClassVar[str] = "attention and feed-forward net side by side, in sequence in the RW models"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "queries, keys and values are one matrix"}

    model_type: Literal["falcon"]
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

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden, wide = self.hidden_size, self.ffn_hidden_size or 4 * self.hidden_size
        keys = hidden if not self.multi_query else hidden // self.num_attention_heads
        if self.new_decoder_architecture:
            keys = self.kv_heads * (hidden // self.num_attention_heads)
        return {
            "self_attention.query_key_value": Map(hidden + 2 * keys, hidden, self.bias),
            "self_attention.dense": Map(hidden, hidden, self.bias),
            "mlp.dense_h_to_4h": Map(wide, hidden, self.bias),
            "mlp.dense_4h_to_h": Map(hidden, wide, self.bias),
        }

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        norms = ["input_layernorm"]
        if not self.parallel_attn:
            norms = ["input_layernorm", "post_attention_layernorm"]
        elif self.new_decoder_architecture and self.num_ln_in_parallel_attn != 1:
            norms = ["ln_attn", "ln_mlp"]
        return layer_norm(*norms, width=self.hidden_size)

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        table = {"transformer.word_embeddings.weight": (self.vocab_size, self.hidden_size)}
        return table | layer_norm("transformer.ln_f", width=self.hidden_size)
