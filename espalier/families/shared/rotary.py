"""Rotary position embeddings: settings of stock configurations, and what each rope type requires."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import Family
from espalier.families.shared.fields import Positions

RopeType = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
Theta = Annotated[float, Field(gt=0, le=1e12)]
Factor = Annotated[float, Field(gt=0, le=1e12)]
Scale = Annotated[float, Field(ge=0, le=1e12)]
Part = Annotated[float, Field(gt=0, le=1)]
"""Fraction of a head's channels that are rotated."""

_NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Type -> keys without which stock transformers does not build it."""


class Rope(BaseModel):
    """`rope_parameters`, or `rope_scaling` as earlier versions called it; unknown keys are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    rope_type: RopeType = "default"
    type: RopeType = "default"
    rope_theta: Theta = 10_000.0
    partial_rotary_factor: Part = 1.0
    factor: Factor | None = None
    original_max_position_embeddings: Positions = 2048
    attention_factor: Scale | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None
    mscale: Scale | None = None
    mscale_all_dim: Scale | None = None
    truncate: bool = True
    finetuned: bool = False
    short_factor: Annotated[list[Factor], Field(max_length=4096)] | None = None
    long_factor: Annotated[list[Factor], Field(max_length=4096)] | None = None
    low_freq_factor: Factor | None = None
    high_freq_factor: Factor | None = None

    @model_validator(mode="after")
    def _complete(self) -> Rope:
        declared = self.model_fields_set
        if {"rope_type", "type"} <= declared and self.rope_type != self.type:
            raise _bad("rope_type and type disagree")
        missing = [name for name in _NEEDS[self.kind] if getattr(self, name) is None]
        if missing:
            raise _bad(f"a rope of type {self.kind} needs {', '.join(missing)}")
        if self.kind == "llama3" and not (self.low_freq_factor or 0) < (self.high_freq_factor or 0):
            raise _bad("high_freq_factor has to be larger than low_freq_factor")
        if self.kind == "yarn" and self.rope_theta == 1:
            raise _bad("a rope of type yarn needs a rope_theta other than 1")
        return self

    @property
    def kind(self) -> RopeType:
        """Its type, under either name."""
        return self.rope_type if "rope_type" in self.model_fields_set else self.type


class Rotary(Family):
    """Families with rotary position embeddings."""

    rope_theta: Theta = 10_000.0
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None

    @property
    def rotary_fraction(self) -> float:
        """The fraction of a head that is rotated; families with partial rotary embeddings override it."""
        return 1.0

    @property
    def rope(self) -> Rope:
        """What stock transformers goes by: `rope_scaling` where both are given."""
        return next((rope for rope in (self.rope_scaling, self.rope_parameters) if _says(rope)), None) or Rope()

    @model_validator(mode="after")
    def _turns(self) -> Rotary:
        rope, size = self.rope, int(self.head_size * self.rotary_fraction)
        odd = size % 2 and (self.rotary_fraction == 1 or rope.kind == "longrope")  # an odd part is rounded up to a pair
        if size < 1 or odd:
            raise _bad(
                f"rotary positions rotate channels in pairs, and {size} of a head of {self.head_size} are rotated"
            )
        if rope.kind in ("dynamic", "yarn") and size < 4:
            raise _bad(f"a rope of type {rope.kind} needs heads of at least 4")
        if rope.kind == "longrope":
            lengths = {len(each or []) for each in (rope.short_factor, rope.long_factor)}
            if lengths != {size // 2}:
                raise _bad(f"short_factor and long_factor need one entry for every rotated pair, {size // 2}")
        return self

    @model_validator(mode="after")
    def _rotation_is_supported(self) -> Rotary:
        factors = {getattr(self, "partial_rotary_factor", None), self.rope.partial_rotary_factor} - {None}
        if self.rotary_fraction == 1 and factors - {1.0}:
            raise _bad(f"a stock {self.model_type} rotates whole heads: it does not read partial_rotary_factor")
        return self


def _says(rope: Rope | None) -> bool:
    """Tell whether a dictionary was given and is not empty."""
    return rope is not None and bool(rope.model_fields_set)


def _bad(why: str) -> PydanticCustomError:
    return PydanticCustomError("bad_config", "{why}", {"why": why})
