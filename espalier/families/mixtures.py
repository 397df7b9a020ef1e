"""Mixtures of experts: the maps of every expert are matrices of their own; the router stays dense."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.base import Count, Epsilon, HeadSize, Maps, Number, Ratio, Shapes
from espalier.families.llama import LlamaLike

ALIGNED = 4
"""Numbers of float32 in 16 bytes, which its product of groups asks of every row."""
Experts = Annotated[int, Field(ge=1, le=4096)]


class WithExperts(LlamaLike):
    """Blocks whose feed-forward net is a router and experts."""

    notes: ClassVar[str] = "every expert's maps are matrices with statistics of the tokens routed to them; router dense"

    num_experts_per_tok: Experts
    output_router_logits: bool = False
    router_aux_loss_coef: Number = 0.001

    @model_validator(mode="after")
    def _enough_experts(self) -> WithExperts:
        if self.num_experts_per_tok > self.experts:
            raise PydanticCustomError("bad_config", "num_experts_per_tok is larger than the number of experts")
        if self.hidden_size % ALIGNED or self.expert_size % ALIGNED:
            why = "stock transformers runs experts whose widths are multiples of {aligned} only"
            raise PydanticCustomError("bad_config", why, {"aligned": ALIGNED})
        return self

    @property
    @abstractmethod
    def experts(self) -> int:
        """Number of experts in a block that has any."""

    @property
    @abstractmethod
    def expert_size(self) -> int:
        """Width of one expert."""

    def routed(self, block: int) -> bool:
        """Tell whether a block has experts."""
        del block
        return True

    def spelled(self) -> int:
        """How many tensors its blocks have, counted and not spelled out."""
        plain = len(LlamaLike.maps(self, 0)) + len(LlamaLike.others(self, 0))
        routed = sum(map(self.routed, range(self.num_hidden_layers)))
        return self.num_hidden_layers * plain + routed * 3 * (self.experts - 1)

    def stands_for(self, name: str) -> int:
        """How many parameters a tensor of this name may stand for."""
        return 2 * self.experts if name.endswith((".experts.gate_up_proj", ".experts.down_proj")) else 1

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        if not self.routed(block):
            return super().maps(block)
        maps = self.attention()
        for index in range(self.experts):
            maps |= self.gated(f"mlp.experts.{index}", self.expert_size)
        return maps

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        shapes = super().others(block)
        return shapes | ({"mlp.gate.weight": (self.experts, self.hidden_size)} if self.routed(block) else {})

    def stacks(self, block: int) -> dict[str, tuple[tuple[int, ...], list[str]]]:
        """Tensors that may stand for several parameters of a block: name -> shape and parameters."""
        if not self.routed(block):
            return {}
        names = [f"mlp.experts.{index}" for index in range(self.experts)]
        hidden, wide = self.hidden_size, self.expert_size
        gate_up = [f"{name}.{part}_proj.weight" for name in names for part in ("gate", "up")]
        down = [f"{name}.down_proj.weight" for name in names]
        return {
            "mlp.experts.gate_up_proj": ((self.experts, 2 * wide, hidden), gate_up),
            "mlp.experts.down_proj": ((self.experts, hidden, wide), down),
        }


class Mixtral(WithExperts):
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

    model_type: Literal["mixtral"]
    num_key_value_heads: Count = 8
    num_experts_per_tok: Experts = 2
    num_local_experts: Experts = 8
    router_jitter_noise: Ratio = 0.0
    sliding_window: Count | None = None
    rms_norm_eps: Epsilon = 1e-5

    @model_validator(mode="after")
    def _size_is_told(self) -> Mixtral:
        if self.head_dim is None and self.rope.kind not in ("default", "linear"):
            why = "a stock mixtral with a rope of type {kind} needs head_dim"
            raise PydanticCustomError("bad_config", why, {"kind": self.rope.kind})
        return self

    @property
    def experts(self) -> int:
        """Number of experts in a block that has any."""
        return self.num_local_experts

    @property
    def expert_size(self) -> int:
        """Width of one expert."""
        return self.intermediate_size


class Qwen3Moe(WithExperts):
    """Qwen 3 with experts; some blocks may be dense."""

    architecture: ClassVar[str] = "Qwen3MoeForCausalLM"
    query_key_norms: ClassVar[bool] = True

    other_keys: ClassVar[Mapping[str, str]] = {"num_local_experts": "num_experts"}

    model_type: Literal["qwen3_moe"]
    num_key_value_heads: Count = 4
    head_dim: HeadSize | None = None
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Count | None = 4096
    max_window_layers: Annotated[int, Field(ge=0, le=4096)] = 28
    decoder_sparse_step: Count = 1
    moe_intermediate_size: Count = 768
    num_experts: Experts = 128
    num_experts_per_tok: Experts = 8
    norm_topk_prob: bool = False
    mlp_only_layers: Annotated[list[Annotated[int, Field(ge=0, le=4096)]], Field(max_length=4096)] | None = None

    @property
    def attention_biases(self) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        return (self.attention_bias, self.attention_bias)

    @property
    def experts(self) -> int:
        """Number of experts in a block that has any."""
        return self.num_experts

    @property
    def expert_size(self) -> int:
        """Width of one expert."""
        return self.moe_intermediate_size

    def routed(self, block: int) -> bool:
        """Tell whether a block has experts."""
        return block not in self._dense and (block + 1) % self.decoder_sparse_step == 0

    @cached_property
    def _dense(self) -> frozenset[int]:
        return frozenset(self.mlp_only_layers or ())
