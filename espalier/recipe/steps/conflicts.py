"""Incompatible methods of different axes, as the methods themselves declare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

from espalier.methods.base import Axes, Method
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, PATTERNS, SOLVERS


@dataclass(frozen=True)
class Conflict:
    """Two choices that are refused together."""

    choices: dict[str, str]
    """Field of the prune step -> name of the method."""
    reason: str


_FOUND: dict[str, tuple[str, Mapping[str, type[Method]]]] = {
    "method": ("criterion", CRITERIA),
    "pattern": ("pattern", PATTERNS),
    "budget": ("budget", BUDGETS),
    "optimizer": ("optimizer", OPTIMIZERS),
    "update": ("solver", SOLVERS),
}
"""Field of the prune step -> its name among the axes, and what was discovered."""


@cache
def conflicts() -> list[Conflict]:
    """Return every pair of methods that is refused, with parameters at their defaults and the other axes as usual."""
    usual = Axes(CRITERIA["magnitude"](), PATTERNS["unstructured"](), BUDGETS["uniform"](), None, None)
    pairs = []
    for (first, (one, ones)), (second, (other, others)) in combinations(_FOUND.items(), 2):
        for name, kind in ones.items():
            for other_name, other_kind in others.items():
                pair = {one: kind.model_validate(kind.example), other: other_kind.model_validate(other_kind.example)}
                axes = replace(usual, **pair)  # type: ignore[arg-type]
                reason = next(filter(None, (method.incompatible_with(axes) for method in pair.values())), None)
                if reason:
                    pairs.append(Conflict({first: name, second: other_name}, reason))
    return pairs
