"""Qwen 3, dense: Llama with norms on queries and keys, and a sliding window in the upper blocks."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.families.shared.fields import Count, HeadSize
from espalier.families.shared.llama_like import BiasedAttention
from espalier.families.shared.sliding import UpperWindows


class Qwen3(UpperWindows, BiasedAttention):
    """Qwen 3, dense: norms on queries and keys."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    query_key_norms: ClassVar[bool] = True
    notes: ClassVar[str] = "norms of queries and keys belong to the attention half"
    pair_tokenizer: ClassVar[str] = "Qwen2Tokenizer"

    model_type: Literal["qwen3"] = "qwen3"
    num_key_value_heads: Count | None = 32
    head_dim: HeadSize | None = 128
