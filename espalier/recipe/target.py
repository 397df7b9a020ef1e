"""A size or a speed to come down to: the best perplexity that keeps it, split over depth and width."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec

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
