"""Llama-like families: rotary positions, RMS norms, gated MLPs, grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import Map, Maps, Shapes
from espalier.families.shared.fields import Activation, Count, Epsilon, HeadSize
from espalier.families.shared.norms import rms_norm
from espalier.families.shared.rotary import Part, Rotary
from espalier.methods.structured import PartKind


class LlamaLike(Rotary):
    """What they share."""

    width_field: ClassVar[str | None] = "intermediate_size"
    readers: ClassVar[Mapping[str, str]] = {"neurons": "mlp.down_proj", "kv_groups": "self_attn.o_proj"}
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
        if (self.head_dim is None or self.heads_divide) and self.hidden_size % self.num_attention_heads:
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

    def fits(self, part: PartKind) -> tuple[int, ...] | None:
        """Return the numbers of units that a stock configuration can have, ascending; None where it can have any."""
        if part != "kv_groups" or not self.heads_divide:
            return super().fits(part)
        each = self.num_attention_heads // self.kv_heads
        return tuple(groups for groups in range(1, self.kv_heads + 1) if self.hidden_size % (groups * each) == 0)

    def narrowed(self, part: PartKind, count: int) -> dict[str, Any]:
        """Return the settings, by field, of the same model with `count` units of a part in every block."""
        if part != "kv_groups":
            return super().narrowed(part, count)
        queries = self.num_attention_heads // self.kv_heads * count
        return {"num_attention_heads": queries, "num_key_value_heads": count, "head_dim": self.head_size}

    def attention(self) -> Maps:
        """Return the linear layers of the attention."""
        hidden, (inner, outer) = self.hidden_size, self.attention_biases
        queries, keys = self.num_attention_heads * self.head_size, self.kv_heads * self.head_size
        return {
            "self_attn.q_proj": Map(queries, hidden, inner),
            "self_attn.k_proj": Map(keys, hidden, inner),
            "self_attn.v_proj": Map(keys, hidden, inner),
            "self_attn.o_proj": Map(hidden, queries, outer),
        }

    def gated(self, name: str, wide: int, *, biased: bool = False) -> Maps:
        """Return the linear layers of a gated MLP."""
        return {
            f"{name}.gate_proj": Map(wide, self.hidden_size, biased),
            f"{name}.up_proj": Map(wide, self.hidden_size, biased),
            f"{name}.down_proj": Map(self.hidden_size, wide, biased),
        }

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        del block
        return self.attention() | self.gated("mlp", self.intermediate_size)

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        del block
        shapes = rms_norm("input_layernorm", "post_attention_layernorm", width=self.hidden_size)
        if self.query_key_norms:
            shapes |= rms_norm("self_attn.q_norm", "self_attn.k_norm", width=self.head_size)
        return shapes

    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out."""
        return {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }


class BiasedAttention(LlamaLike):
    """Families with one switch for the biases of all four linear layers of the attention."""

    bias_fields: ClassVar[Mapping[str, str]] = {"kv_groups": "attention_bias"}

    attention_bias: bool = False

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)
