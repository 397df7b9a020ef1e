"""Mixtral: Mistral with experts in every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.fields import Count, Epsilon, ExpertCount, Ratio
from espalier.families.shared.mixture import MixtureOfExperts


class Mixtral(MixtureOfExperts):
    """Mixtral: every block has experts."""

    architecture: ClassVar[str] = "MixtralForCausalLM"
    null_head: ClassVar[bool] = True
    other_keys: ClassVar[Mapping[str, str]] = {"num_experts": "num_local_experts"}
    other_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(\.experts\.\d+)\.(gate|up|down)_proj\.", r"\1.never_\2."),  # stock transformers does not load them
        (r"\.block_sparse_moe\.", ".mlp."),
        (r"(\.experts\.\d+)\.w1\.", r"\1.gate_proj."),
        (r"(\.experts\.\d+)\.w2\.", r"\1.down_proj."),
        (r"(\.experts\.\d+)\.w3\.", r"\1.up_proj."),
    )
    experts_field: ClassVar[str] = "num_local_experts"
    expert_width_field: ClassVar[str] = "intermediate_size"
    tokenizer_is_fixed: ClassVar[bool] = True

    model_type: Literal["mixtral"] = "mixtral"
    num_key_value_heads: Count = 8
    num_experts_per_tok: ExpertCount = 2
    num_local_experts: ExpertCount = 8
    router_jitter_noise: Ratio = 0.0
    sliding_window: Count | None = None
    rms_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _size_is_told(self) -> Mixtral:
        if self.head_dim is None and self.rope.kind not in ("default", "linear"):
            why = "a stock mixtral with a rope of type {kind} needs head_dim"
            raise PydanticCustomError("bad_config", why, {"kind": self.rope.kind})
        return self
