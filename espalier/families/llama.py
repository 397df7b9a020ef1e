"""Llama 1 to 3 and their descendants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from espalier.families.shared.family import Maps
from espalier.families.shared.fields import Count
from espalier.families.shared.llama_like import BiasedAttention


class Llama(BiasedAttention):
    """Llama 1 to 3 and their descendants."""

    architecture: ClassVar[str] = "LlamaForCausalLM"
    bias_fields: ClassVar[Mapping[str, str]] = {"neurons": "mlp_bias", "kv_groups": "attention_bias"}
    heads_divide: ClassVar[bool] = True
    null_head: ClassVar[bool] = True

    model_type: Literal["llama"] = "llama"
    mlp_bias: bool = False
    pretraining_tp: Count = 1

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        del block
        return self.attention() | self.gated("mlp", self.intermediate_size, biased=self.mlp_bias)
