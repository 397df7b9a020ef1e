"""Qwen 3 with experts: blocks may be dense by number, or at regular steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from espalier.families.shared.fields import BlockIndex, Count, ExpertCount
from espalier.families.shared.llama_like import BiasedAttention
from espalier.families.shared.mixture import MixtureOfExperts


class Qwen3Moe(MixtureOfExperts, BiasedAttention):
    """Qwen 3 with experts; some blocks may be dense."""

    architecture: ClassVar[str] = "Qwen3MoeForCausalLM"
    query_key_norms: ClassVar[bool] = True
    other_keys: ClassVar[Mapping[str, str]] = {"num_local_experts": "num_experts"}
    experts_field: ClassVar[str] = "num_experts"
    expert_width_field: ClassVar[str] = "moe_intermediate_size"
    pair_tokenizer: ClassVar[str] = "Qwen2Tokenizer"

    model_type: Literal["qwen3_moe"] = "qwen3_moe"
    num_key_value_heads: Count = 4
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: BlockIndex = 28
    decoder_sparse_step: Count = 1
    moe_intermediate_size: Count = 768
    num_experts: ExpertCount = 128
    num_experts_per_tok: ExpertCount = 8
    norm_topk_prob: bool = False
    mlp_only_layers: Annotated[list[BlockIndex], Field(max_length=4096)] | None = None

    def routed(self, block: int) -> bool:
        """Tell whether a block has experts."""
        return block not in self._dense and (block + 1) % self.decoder_sparse_step == 0

    @cached_property
    def _dense(self) -> frozenset[int]:
        return frozenset(self.mlp_only_layers or ())

    def shortened(self, kept: Sequence[int]) -> dict[str, Any]:
        """Return settings, by field, of the same model with these of its blocks: dense ones by their new numbers."""
        dense = [new for new, old in enumerate(kept) if not self.routed(old)]
        return super().shortened(kept) | {"mlp_only_layers": dense, "decoder_sparse_step": 1}
