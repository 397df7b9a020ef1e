"""The members of a soup: the same job, its retraining varied in one thing, nothing averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from espalier.recipe.base import canonical
from espalier.recipe.recovery import DECAYS, Soup
from espalier.recipe.steps import SCHEDULES, Retrain

if TYPE_CHECKING:
    pass

SHORTEST, LONGEST = 0.75, 1.25
"""Lengths as shares of `steps`: together the members cost what equal ones would."""
VECTORS: Final = frozenset({"norms", "biases"})
"""What never decays."""
AS_THEY_WERE: Final = VECTORS | {"embeddings"}
"""What is trained from its own values: nothing of it is drawn."""


def vary(retrain: Retrain, soup: Soup, factor: float | None = None) -> list[Retrain]:
    """Return one retraining per member; the first is the spec's own except where the lengths differ."""
    found = {} if factor is None else {"rate_factor": factor}
    return [retrain.model_copy(update=found | _change(retrain, soup, index)) for index in range(soup.members)]


def some_are_equal(retrain: Retrain, soup: Soup) -> bool:
    """Tell whether two members would come to the same weights, for what differs is nothing that they read."""
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
        share = SHORTEST + (LONGEST - SHORTEST) * index / (soup.members - 1)
        return {"steps": max(1, round(share * retrain.steps))}
    names = [name for name in SCHEDULES if name != retrain.schedule]
    return {"schedule": retrain.schedule if index == 0 else names[index - 1]}
