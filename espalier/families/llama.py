"""Llama and what was built after it: rotary positions, RMS norms, a gated feed-forward net, grouped heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.base import (
    NORM_BEHIND,
    Activation,
    Count,
    Epsilon,
    HeadSize,
    LayerTypes,
    Map,
    Maps,
    Number,
    Ratio,
    Shapes,
    TokenId,
    fit_layers,
    rms_norm,
)
from espalier.families.rope import Part, Rotary


class LlamaLike(Rotary):
    """What they share."""

    query_key_norms: ClassVar[bool] = False
    heads_divide: ClassVar[bool] = False
    """Whether the stock class asks that heads divide the hidden size, whatever `head_dim` says."""
    null_head: ClassVar[bool] = False
    """Whether the stock class takes `head_dim: null`."""

    intermediate_size: Count
    num_key_value_heads: Count | None = None
    head_dim: HeadSize | None = None
    hidden_act: Activation = "silu"
    rms_norm_eps: Epsilon = 1e-6
    partial_rotary_factor: Part | None = None

    @model_validator(mode="after")
    def _heads_fit(self) -> LlamaLike:
        if self.head_dim is None and "head_dim" in self.model_fields_set and not self.null_head:
            raise PydanticCustomError("bad_config", "head_dim is null, which stock transformers refuses: leave it out")
        if self.num_attention_heads % self.kv_heads:
            raise PydanticCustomError("bad_config", "num_key_value_heads does not divide num_attention_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (False, False)

    def attention(self) -> Maps:
        """The maps of the attention."""
        hidden, (inner, outer) = self.hidden_size, self.attention_biases
        queries, keys = self.num_attention_heads * self.head_size, self.kv_heads * self.head_size
        return {
            "self_attn.q_proj": Map(queries, hidden, inner),
            "self_attn.k_proj": Map(keys, hidden, inner),
            "self_attn.v_proj": Map(keys, hidden, inner),
            "self_attn.o_proj": Map(hidden, queries, outer),
        }

    def gated(self, name: str, wide: int, *, biased: bool = False) -> Maps:
        """The maps of a gated feed-forward net."""
        return {
            f"{name}.gate_proj": Map(wide, self.hidden_size, biased),
            f"{name}.up_proj": Map(wide, self.hidden_size, biased),
            f"{name}.down_proj": Map(self.hidden_size, wide, biased),
        }

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        return self.attention() | self.gated("mlp", self.intermediate_size)

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        shapes = rms_norm("input_layernorm", "post_attention_layernorm", width=self.hidden_size)
        if self.query_key_norms:
            shapes |= rms_norm("self_attn.q_norm", "self_attn.k_norm", width=self.head_size)
        return shapes

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        return {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }


class Llama(LlamaLike):
    """Llama 1 to 3 and their descendants."""

    architecture: ClassVar[str] = "LlamaForCausalLM"
    heads_divide: ClassVar[bool] = True
    null_head: ClassVar[bool] = True

    model_type: Literal["llama"]
    attention_bias: bool = False
    mlp_bias: bool = False
    pretraining_tp: Count = 1

    @model_validator(mode="after")
    def _heads_divide(self) -> Llama:
        if self.hidden_size % self.num_attention_heads:  # also where `head_dim` is given
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        return self.attention() | self.gated("mlp", self.intermediate_size, biased=self.mlp_bias)


class Mistral(LlamaLike):
    """Mistral: Llama with a sliding window."""

    architecture: ClassVar[str] = "MistralForCausalLM"
    null_head: ClassVar[bool] = True

    model_type: Literal["mistral"]
    num_key_value_heads: Count = 8
    sliding_window: Count | None = 4096


class Gemma2(LlamaLike):
    """Gemma 2: norms before and behind each half, two attention masks by turns, capped logits."""

    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    heads_divide: ClassVar[bool] = True
    notes: ClassVar[str] = "norms before and behind each half; sliding and full attention by turns"
    whole: ClassVar[Mapping[str, str]] = {"replace": NORM_BEHIND}

    model_type: Literal["gemma2"]
    num_key_value_heads: Count = 4
    head_dim: HeadSize | None = 256
    hidden_activation: Activation = "gelu_pytorch_tanh"
    attention_bias: bool = False
    query_pre_attn_scalar: Count = 256
    sliding_window: Count | None = 4096
    layer_types: LayerTypes | None = None
    final_logit_softcapping: Number | None = 30.0
    attn_logit_softcapping: Number | None = 50.0
    tie_word_embeddings: bool = True
    use_bidirectional_attention: Literal[False] | None = None
    pad_token_id: TokenId | None = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> Gemma2:
        if self.hidden_size % self.num_attention_heads:  # also where `head_dim` is given
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        if self.sliding_window is None:  # also where no block slides
            raise PydanticCustomError(
                "bad_config", "sliding_window is null, which stock transformers refuses: say 4096"
            )
        fit_layers(self.layer_types, self.num_hidden_layers, windowed=True)
        return self

    @model_validator(mode="after")
    def _one_activation(self) -> Gemma2:
        if self.hidden_act not in ("silu", "gelu", "gelu_pytorch_tanh", self.hidden_activation):
            raise PydanticCustomError("bad_config", "hidden_act is not read by a gemma2: say hidden_activation")
        return self

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        behind = rms_norm("pre_feedforward_layernorm", "post_feedforward_layernorm", width=self.hidden_size)
        return super().others(block) | behind


class Olmo2(LlamaLike):
    """OLMo 2: norms behind each half only, and over all queries and keys."""

    architecture: ClassVar[str] = "Olmo2ForCausalLM"
    notes: ClassVar[str] = "norms behind each half only"
    whole: ClassVar[Mapping[str, str]] = {
        "kv_groups": "a norm goes over all heads together", "replace": NORM_BEHIND
    }  # fmt: skip

    model_type: Literal["olmo2"]
    attention_bias: bool = False
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId | None = 1

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        shapes = rms_norm("post_attention_layernorm", "post_feedforward_layernorm", width=self.hidden_size)
        shapes |= rms_norm("self_attn.q_norm", width=self.num_attention_heads * self.head_size)
        return shapes | rms_norm("self_attn.k_norm", width=self.kv_heads * self.head_size)


class Phi3(LlamaLike):
    """Phi 3, 3.5 and 4: one map for queries, keys and values, one for gate and up."""

    architecture: ClassVar[str] = "Phi3ForCausalLM"
    notes: ClassVar[str] = "query, key and value are one matrix, gate and up are one"
    whole: ClassVar[Mapping[str, str]] = {
        "neurons": "gate and up are one matrix", "kv_groups": "queries, keys and values are one matrix"
    }  # fmt: skip

    model_type: Literal["phi3"]
    original_max_position_embeddings: Count = 4096
    partial_rotary_factor: Part = 1.0
    sliding_window: Count | None = None
    resid_pdrop: Ratio = 0.0
    embd_pdrop: Ratio = 0.0
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId | None = 32000

    @property
    def turned(self) -> float:
        """The share of a head that is turned."""
        told = "partial_rotary_factor" in self.rope.model_fields_set
        return self.rope.partial_rotary_factor if told else self.partial_rotary_factor

    @model_validator(mode="after")
    def _long_or_plain(self) -> Phi3:
        if self.rope.kind not in ("default", "longrope"):
            raise PydanticCustomError("bad_config", "a stock phi3 knows ropes of type longrope alone")
        return self

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden, wide, queries = self.hidden_size, self.intermediate_size, self.num_attention_heads * self.head_size
        return {
            "self_attn.qkv_proj": Map(queries + 2 * self.kv_heads * self.head_size, hidden),
            "self_attn.o_proj": Map(hidden, queries),
            "mlp.gate_up_proj": Map(2 * wide, hidden),
            "mlp.down_proj": Map(hidden, wide),
        }
