"""Cycles of pruning and recovery (iterative magnitude pruning), and soups of several retrainings."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec, canonical
from espalier.recipe.steps.retrain import SCHEDULES, Retrain

DECAYS: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weight decays of members that differ in it; the spec's own comes first."""

SHORTEST, LONGEST = 0.75, 1.25
"""Lengths as shares of `steps`: together the members cost what equal ones would."""
VECTORS: Final = frozenset({"norms", "biases"})
"""What never decays."""
AS_THEY_WERE: Final = VECTORS | {"embeddings"}
"""What is trained from its own values: nothing of it is drawn."""


class Soup(Spec):
    """Retrain several times from one pruned model and average the merged weights (arXiv 2306.16788).

    Members are jobs of their own. With `cycles` every cycle ends in a soup that the next one starts from, and its
    members are trained in the job itself, one after the other.
    """

    members: int = Field(3, ge=2, le=16, description="Retrainings from the same pruned weights.")
    vary: Literal["seed", "order", "weight_decay", "steps", "schedule"] = Field(
        "seed", description="The one thing in which the members differ; `order` keeps the adapters' first values."
    )
    average: Literal["uniform", "greedy"] = Field(
        "uniform", description="greedy: take a member in only where the held-out loss does not rise."
    )

    @model_validator(mode="after")
    def _there_are_as_many(self) -> Soup:
        there_are = {"schedule": len(SCHEDULES), "weight_decay": len(DECAYS)}.get(self.vary, self.members)
        if self.members > there_are:
            raise PydanticCustomError(
                "too_many_members",
                "members that differ in `{what}` are {count} at most",
                {"what": self.vary, "count": there_are, "at": "members"},
            )
        return self


class Cycles(Spec):
    """Prune and recover by turns; what is pruned never comes back (IMP; arXiv 2111.00843 splits the steps)."""

    count: int = Field(3, ge=2, le=100, description="Turns; each has an equal share of `retrain.steps`.")
    schedule: Literal["geometric", "linear", "cubic"] = Field(
        "geometric",
        description="How sparsity rises: equal shares of the rest, equal steps, or large ones first.",
    )

    def sparsity(self, cycle: int, target: float) -> float:
        """Return the sparsity after a cycle, counted from 1; the last cycle reaches the target exactly."""
        fraction = cycle / self.count
        if cycle == self.count:
            return target
        if self.schedule == "geometric":
            return float(1 - (1 - target) ** fraction)
        return target * (fraction if self.schedule == "linear" else 1.0 - float((1 - fraction) ** 3))

    def steps(self, cycle: int, total: int) -> int:
        """Return the optimizer steps of a cycle: an equal part, and the remainder for the last."""
        part = total // self.count
        return part if cycle < self.count else total - part * (self.count - 1)


def vary(retrain: Retrain, soup: Soup, factor: float | None = None) -> list[Retrain]:
    """Return one retraining per member; the first is the spec's own except where the lengths differ."""
    common = {} if factor is None else {"rate_factor": factor}
    return [retrain.model_copy(update=common | _change(retrain, soup, index)) for index in range(soup.members)]


def some_are_equal(retrain: Retrain, soup: Soup) -> bool:
    """Tell whether two members would get equal weights, because they do not read what differs."""
    return len({_read_by(member) for member in vary(retrain, soup)}) < soup.members


def _read_by(retrain: Retrain) -> str:
    fields = retrain.model_dump(mode="json") | {"order_seed": _order_seed(retrain)}
    if retrain.method == "full" or set(retrain.trainable) <= AS_THEY_WERE:
        del fields["seed"]
    if retrain.method == "perp" and set(retrain.trainable) <= VECTORS:
        del fields["weight_decay"]
    return canonical(fields)


def _order_seed(retrain: Retrain) -> int:
    return retrain.seed if retrain.order_seed is None else retrain.order_seed


def _change(retrain: Retrain, soup: Soup, index: int) -> dict[str, object]:
    if soup.vary == "seed":
        return {"seed": (retrain.seed + index) % 2**31}
    if soup.vary == "order":
        return {"order_seed": (_order_seed(retrain) + index) % 2**31}
    if soup.vary == "weight_decay":
        others = [value for value in DECAYS if value != retrain.weight_decay]
        return {"weight_decay": retrain.weight_decay if index == 0 else others[index - 1]}
    if soup.vary == "steps":
        fraction = SHORTEST + (LONGEST - SHORTEST) * index / (soup.members - 1)
        return {"steps": max(1, round(fraction * retrain.steps))}
    names = [name for name in SCHEDULES if name != retrain.schedule]
    return {"schedule": retrain.schedule if index == 0 else names[index - 1]}
