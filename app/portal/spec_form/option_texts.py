"""Texts of the options: one line each, and the paper."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from app.integrations.systems import SOURCES
from app.portal.spec_form.nodes import Option
from espalier.methods.base import Method
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, PATTERNS, SOLVERS
from espalier.recipe.steps.structure import BLOCK_CRITERIA, EXPERT_CRITERIA, UNIT_CRITERIA

GROUPS: Final[tuple[tuple[str, Mapping[str, type[Method]]], ...]] = (
    ("single weights go", CRITERIA),
    ("blocks go", BLOCK_CRITERIA),
    ("neurons and heads go", UNIT_CRITERIA),
    ("experts go", EXPERT_CRITERIA),
)
"""The methods of `prune.method`, by what they remove."""
AXES: Final[Mapping[str, Mapping[str, type[Method]]]] = {
    "pattern": PATTERNS,
    "budget": BUDGETS,
    "optimizer": OPTIMIZERS,
    "update": SOLVERS,
}
"""The other choices of a step that prunes single weights, by their field."""


@lru_cache
def explained(part: str) -> dict[str, Option]:
    """Return the texts of a field's options by name; empty for fields whose options need none."""
    if part == "method":
        return {
            name: Option(name, method.summary, method.paper, group)
            for group, methods in GROUPS
            for name, method in methods.items()
        }
    if part == "source":
        return {name: Option(name, source.title) for name, source in SOURCES.items()}
    return {name: Option(name, method.summary, method.paper) for name, method in AXES.get(part, {}).items()}


def catalogue() -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return every kind of method with the field that names it."""
    return [
        *(("prune.method", group, methods) for group, methods in GROUPS),
        *((f"prune.{part}", part, methods) for part, methods in AXES.items()),
    ]
