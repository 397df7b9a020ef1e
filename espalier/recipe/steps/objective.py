"""Objectives: the highest sparsity that keeps a bound on quality, or the best quality at a size."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec


class Objective(Spec):
    """Find the highest sparsity that keeps the bound, by bisection; `prune.sparsity` is where it begins."""

    max_relative_perplexity_increase: float = Field(
        gt=0, le=100, description="0.05: 5 % over dense, on every measurement of `evaluate.perplexity`."
    )
    max_trials: int = Field(6, ge=1, le=32, description="Jobs that may be run for it.")
    max_sparsity: float = Field(0.95, gt=0, lt=1, description="Nothing above is tried.")
    tolerance: float = Field(0.01, gt=0, le=0.5, description="Sparsities closer than this are not told apart.")

    @model_validator(mode="after")
    def _there_is_room(self) -> Objective:
        if self.tolerance >= self.max_sparsity:
            raise PydanticCustomError("no_room", "`tolerance` must be below `max_sparsity`", {"at": "tolerance"})
        return self


Unit = Literal["parameters", "bytes", "seconds_per_token"]
UNITS: Final[tuple[Unit, ...]] = ("parameters", "bytes", "seconds_per_token")


class Target(Spec):
    """Find how many blocks and how much width to remove; the steps of `prune` say the most that each may take.

    Trials prune and measure; recovery runs once, on the best.
    """

    parameters: int | None = Field(None, ge=1, le=2**63 - 1, description="At most so many parameters.")
    bytes: int | None = Field(None, ge=1, le=2**63 - 1, description="At most so many bytes of dense files.")
    seconds_per_token: float | None = Field(
        None, gt=0, le=3600, description="At most so long for one decoded token, measured on the worker."
    )
    max_trials: int = Field(8, ge=1, le=32, description="Jobs that may be run for the search.")

    @model_validator(mode="after")
    def _one_of_three(self) -> Target:
        if sum(getattr(self, unit) is not None for unit in UNITS) != 1:
            raise PydanticCustomError(
                "one_target", "give one of {units}", {"units": ", ".join(f"`{unit}`" for unit in UNITS), "at": ""}
            )
        return self

    @property
    def unit(self) -> Unit:
        """What is bounded."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def at_most(self) -> float:
        """The bound."""
        return float(getattr(self, self.unit))


def _what_is_bounded(value: object) -> str:
    given = value.keys() if isinstance(value, dict) else ()
    return "size" if isinstance(value, Target) or any(unit in given for unit in UNITS) else "quality"


AnyObjective = Annotated[
    Annotated[Objective, Tag("quality")] | Annotated[Target, Tag("size")], Discriminator(_what_is_bounded)
]
"""A bound on quality, or on size or time."""
