"""Mistral: Llama with a sliding window."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.families.shared.fields import Count
from espalier.families.shared.llama_like import LlamaLike


class Mistral(LlamaLike):
    """Mistral: Llama with a sliding window."""

    architecture: ClassVar[str] = "MistralForCausalLM"
    null_head: ClassVar[bool] = True
    tokenizer_is_fixed: ClassVar[bool] = True

    model_type: Literal["mistral"] = "mistral"
    num_key_value_heads: Count = 8
    sliding_window: Count | None = 4096
