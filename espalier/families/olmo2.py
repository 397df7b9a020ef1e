"""OLMo 2: norms behind each half only, and over all queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from espalier.families.shared.family import NORM_BEHIND, Shapes
from espalier.families.shared.fields import Epsilon, TokenId
from espalier.families.shared.llama_like import BiasedAttention
from espalier.families.shared.norms import rms_norm


class Olmo2(BiasedAttention):
    """OLMo 2: norms behind each half only, and over all queries and keys."""

    architecture: ClassVar[str] = "Olmo2ForCausalLM"
    notes: ClassVar[str] = "norms behind each half only"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "a norm goes over all heads together", "replace": NORM_BEHIND}
    tokenizer_is_fixed: ClassVar[bool] = True

    model_type: Literal["olmo2"] = "olmo2"
    rms_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId | None = 1

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        del block
        shapes = rms_norm("post_attention_layernorm", "post_feedforward_layernorm", width=self.hidden_size)
        shapes |= rms_norm("self_attn.q_norm", width=self.num_attention_heads * self.head_size)
        return shapes | rms_norm("self_attn.k_norm", width=self.kv_heads * self.head_size)
