"""Phi 3, 3.5 and 4: fused linear layers for queries, keys and values, and for gate and up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import ONE_MATRIX, Map, Maps
from espalier.families.shared.fields import Count, Epsilon, Ratio, TokenId
from espalier.families.shared.llama_like import LlamaLike
from espalier.families.shared.rotary import Part


class Phi3(LlamaLike):
    """Phi 3, 3.5 and 4: one map for queries, keys and values, one for gate and up."""

    architecture: ClassVar[str] = "Phi3ForCausalLM"
    notes: ClassVar[str] = "query, key and value are one matrix, gate and up are one"
    whole: ClassVar[Mapping[str, str]] = {"neurons": "gate and up are one matrix", "kv_groups": ONE_MATRIX}
    tokenizer_is_fixed: ClassVar[bool] = True

    model_type: Literal["phi3"] = "phi3"
    original_max_position_embeddings: Count = 4096
    partial_rotary_factor: Part = 1.0
    sliding_window: Count | None = None
    resid_pdrop: Ratio = 0.0
    embd_pdrop: Ratio = 0.0
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId | None = 32000

    @property
    def rotary_fraction(self) -> float:
        """The fraction of a head that is rotated."""
        declared = "partial_rotary_factor" in self.rope.model_fields_set
        return self.rope.partial_rotary_factor if declared else self.partial_rotary_factor

    @model_validator(mode="after")
    def _long_or_plain(self) -> Phi3:
        if self.rope.kind not in ("default", "longrope"):
            raise PydanticCustomError("bad_config", "a stock phi3 knows ropes of type longrope alone")
        pairs = int(self.head_size * self.rotary_fraction) // 2
        # It holds them to their length whatever the type, and reads them for longrope alone.
        if any(each is not None and len(each) != pairs for each in (self.rope.short_factor, self.rope.long_factor)):
            why = "short_factor and long_factor need one entry for every rotated pair, {pairs}"
            raise PydanticCustomError("bad_config", why, {"pairs": pairs})
        return self

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        del block
        hidden, wide, queries = self.hidden_size, self.intermediate_size, self.num_attention_heads * self.head_size
        return {
            "self_attn.qkv_proj": Map(queries + 2 * self.kv_heads * self.head_size, hidden),
            "self_attn.o_proj": Map(hidden, queries),
            "mlp.gate_up_proj": Map(2 * wide, hidden),
            "mlp.down_proj": Map(hidden, wide),
        }
