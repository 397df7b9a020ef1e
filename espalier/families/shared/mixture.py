"""Mixtures of experts: the linear layers of every expert are matrices of their own; the router stays dense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import Maps, Shapes
from espalier.families.shared.fields import ExpertCount, Number
from espalier.families.shared.llama_like import LlamaLike
from espalier.methods.structured import PartKind

STACKED: Final[Mapping[str, tuple[str, ...]]] = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""A tensor that stacks all experts -> the linear layers of one expert in it, in order; as (E, rows, I)."""
ALIGNED: Final = 4
"""Numbers of float32 in 16 bytes, which its product of groups asks of every row."""


class MixtureOfExperts(LlamaLike):
    """Blocks whose feed-forward net is a router and experts."""

    notes: ClassVar[str] = "every expert's maps are matrices with statistics of the tokens routed to them; router dense"
    training_only: ClassVar[frozenset[str]] = frozenset({"output_router_logits"})
    experts_field: ClassVar[str] = ""
    """The field that says how many experts a block has."""
    expert_width_field: ClassVar[str] = ""
    """The field that says how wide one is."""

    num_experts_per_tok: ExpertCount
    output_router_logits: bool = False
    router_aux_loss_coef: Number = 0.001

    @model_validator(mode="after")
    def _enough_experts(self) -> MixtureOfExperts:
        if self.num_experts_per_tok > self.experts:
            raise PydanticCustomError("bad_config", "num_experts_per_tok is larger than the number of experts")
        if self.hidden_size % ALIGNED or self.expert_size % ALIGNED:
            why = "stock transformers runs experts whose widths are multiples of {aligned} only"
            raise PydanticCustomError("bad_config", why, {"aligned": ALIGNED})
        return self

    @classmethod
    def named_fields(cls) -> frozenset[str]:
        """Return every field that the declaration refers to by name."""
        return super().named_fields() | {cls.experts_field, cls.expert_width_field}

    @property
    def experts(self) -> int:
        """Number of experts in a block that has any."""
        count: int = getattr(self, self.experts_field)
        return count

    @property
    def expert_size(self) -> int:
        """Width of one expert."""
        width: int = getattr(self, self.expert_width_field)
        return width

    @property
    def routed_fraction(self) -> float:
        """The fraction of the experts that a token is routed to."""
        return self.num_experts_per_tok / self.experts

    def routed(self, block: int) -> bool:
        """Tell whether a block has experts."""
        del block
        return True

    def _routed_blocks(self) -> int:
        return sum(map(self.routed, range(self.num_hidden_layers)))

    def count(self, part: PartKind) -> int:
        """Return how many units of a part every block has; for `depth`, how many blocks the model has."""
        if part != "experts":
            return super().count(part)
        return self.experts if self._routed_blocks() else 0

    def min_count(self, part: PartKind) -> int:
        """Return the fewest units of a part that a model can have."""
        return self.num_experts_per_tok if part == "experts" else super().min_count(part)

    def narrowed(self, part: PartKind, count: int) -> dict[str, Any]:
        """Return the settings, by field, of the same model with `count` units of a part in every block."""
        return {self.experts_field: count} if part == "experts" else super().narrowed(part, count)

    def why_not(self, part: str) -> str | None:
        """Return why no stock configuration of the family can have fewer units of a part; None when one can."""
        if part == "neurons" and self._routed_blocks():
            return "its MLP is a mixture of experts: remove experts"
        return super().why_not(part)

    def num_tensors(self) -> int:
        """Return how many tensors the blocks have, counted without listing them."""
        plain = len(LlamaLike.maps(self, 0)) + len(LlamaLike.others(self, 0))
        return self.num_hidden_layers * plain + self._routed_blocks() * 3 * (self.experts - 1)

    def stands_for(self, name: str) -> int:
        """Return how many parameters a tensor of this name may stand for."""
        return 2 * self.experts if name.endswith(tuple(f".experts.{stack}" for stack in STACKED)) else 1

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        if not self.routed(block):
            return super().maps(block)
        maps = self.attention()
        for index in range(self.experts):
            maps |= self.gated(f"mlp.experts.{index}", self.expert_size)
        return maps

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        shapes = super().others(block)
        return shapes | ({"mlp.gate.weight": (self.experts, self.hidden_size)} if self.routed(block) else {})

    def stacks(self, block: int) -> dict[str, tuple[tuple[int, ...], list[str]]]:
        """Return the tensors that may stand for several parameters of a block: name -> shape and parameters."""
        if not self.routed(block):
            return {}
        of_one = self.gated("mlp.experts.0", self.expert_size)
        stacks: dict[str, tuple[tuple[int, ...], list[str]]] = {}
        for stack, roles in STACKED.items():
            rows = [of_one[f"mlp.experts.0.{role}"] for role in roles]
            parameters = [f"mlp.experts.{index}.{role}.weight" for index in range(self.experts) for role in roles]
            shape = (self.experts, sum(each.outputs for each in rows), rows[0].inputs)
            stacks[f"mlp.experts.{stack}"] = (shape, parameters)
        return stacks
