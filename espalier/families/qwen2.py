"""Qwen 2 and 2.5: Llama with biases on queries, keys and values, and a sliding window in the upper blocks."""

from __future__ import annotations

from typing import ClassVar, Literal

from espalier.families.shared.fields import Count
from espalier.families.shared.sliding import UpperWindows


class Qwen2(UpperWindows):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    pair_tokenizer: ClassVar[str] = "Qwen2Tokenizer"
    tokenizer_is_fixed: ClassVar[bool] = True

    model_type: Literal["qwen2"] = "qwen2"
    num_key_value_heads: Count | None = 32

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (True, False)
