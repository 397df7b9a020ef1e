"""The members of a soup: the same job, its retraining varied in one thing, nothing averaged."""

from __future__ import annotations

from app.specs.job import CompressionSpec
from app.specs.recovery import Soup
from app.specs.steps import SCHEDULES, Retrain

DECAYS = (0.0, 0.01)
"""The first two weight decays; each further one is three times the one before."""
SHORTEST, LONGEST = 0.75, 1.25
"""Lengths as shares of `steps`: together the members cost what equal ones would."""


def member_specs(spec: CompressionSpec) -> list[CompressionSpec]:
    """Return what every member of a spec's soup is to do; each is a job of its own from the same pruned weights.

    Members prune and reconstruct as their parent does, so that equal phase results can be shared.
    """
    assert spec.soup is not None
    assert spec.retrain is not None
    retrains = vary(spec.retrain, spec.soup)
    quiet = {"soup": None, "gate": None, "objective": None, "output": spec.output.model_copy(update={"publish": []})}
    return [spec.model_copy(update={**quiet, "retrain": retrain}) for retrain in retrains]


def vary(retrain: Retrain, soup: Soup) -> list[Retrain]:
    """Return one retraining per member; the first is the spec's own except where the lengths differ."""
    return [retrain.model_copy(update=_change(retrain, soup, index)) for index in range(soup.members)]


def _change(retrain: Retrain, soup: Soup, index: int) -> dict[str, object]:
    if soup.vary == "seed":
        return {"seed": (retrain.seed + index) % 2**31}
    if soup.vary == "order":
        return {"order_seed": ((retrain.order_seed or retrain.seed) + index) % 2**31}
    if soup.vary == "weight_decay":
        return {"weight_decay": retrain.weight_decay if index == 0 else _other_decay(retrain.weight_decay, index)}
    if soup.vary == "steps":
        share = SHORTEST + (LONGEST - SHORTEST) * index / (soup.members - 1)
        return {"steps": max(1, round(share * retrain.steps))}
    others = [name for name in SCHEDULES if name != retrain.schedule]
    return {"schedule": retrain.schedule if index == 0 else others[index - 1]}


def _other_decay(own: float, index: int) -> float:
    """Rising decays that leave the first member's own out."""
    ladder: list[float] = [DECAYS[0], *(DECAYS[1] * 3**step for step in range(index + 1))]
    return [value for value in ladder if value != own][index - 1]
