"""Every cell of the five axes, made from what was discovered: a newcomer is in them without an edit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from espalier.methods.base import Axes, Method
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, PATTERNS, SOLVERS, PruneStep

Choice = dict[str, Any]
Cell = dict[str, Choice | None]
"""One choice per axis, by the name of the field; None where the axis may be left out."""


def variants(kind: type[Method], tag: str) -> Iterator[Choice]:
    """A method with its defaults, and with every word that a parameter takes; few iterations, for speed."""
    words = {
        name: get_args(field.annotation)
        for name, field in kind.model_fields.items()
        if name != tag and get_origin(field.annotation) is Literal
    }
    base = {tag: kind.model_fields[tag].default, **kind.example}
    if "iterations" in kind.model_fields:
        base["iterations"] = 4
    for values in itertools.product(*words.values()):
        yield base | dict(zip(words, values, strict=True))


def _axis(methods: Mapping[str, type[Method]], tag: str = "kind") -> list[Choice]:
    return [choice for kind in methods.values() for choice in variants(kind, tag)]


AXES: dict[str, list[Choice | None]] = {
    "method": [*_axis(CRITERIA, "method")],
    "pattern": [*_axis(PATTERNS)],
    "budget": [*_axis(BUDGETS)],
    "optimizer": [None, *_axis(OPTIMIZERS)],
    "update": [{"kind": "none"}, *_axis(SOLVERS)],
}
USUAL: Cell = {
    "method": {"method": "magnitude"},
    "pattern": {"kind": "unstructured", "scope": "row"},
    "budget": {"kind": "uniform"},
    "optimizer": None,
    "update": {"kind": "none"},
}


def cells() -> Iterator[Cell]:
    """The whole product."""
    for choices in itertools.product(*AXES.values()):
        yield dict(zip(AXES, choices, strict=True))


def prune_of(cell: Cell) -> dict[str, Any]:
    """The prune step of a cell, as a client would send it."""
    pattern = cell["pattern"] or {}
    implied = PATTERNS[pattern["kind"]].model_validate(pattern).implied_sparsity()
    rest = {name: choice for name, choice in cell.items() if name != "method"}
    return {**(cell["method"] or {}), "sparsity": 0.5 if implied is None else implied, **rest}


@dataclass(frozen=True)
class Refused:
    """A cell that is refused."""

    at: str
    """The field."""
    reason: str


def axes_of(cell: Cell) -> Axes:
    """The choices of a cell, whether they go together or not."""
    registries: tuple[Mapping[str, type[Method]], ...] = (CRITERIA, PATTERNS, BUDGETS, OPTIMIZERS, {**SOLVERS})
    methods: list[Any] = []
    for (axis, choice), kinds in zip(cell.items(), registries, strict=True):
        name = (choice or {}).get("method" if axis == "method" else "kind", "none")
        methods.append(kinds[name].model_validate(choice) if name in kinds else None)
    return Axes(*methods)


def step_of(cell: Cell) -> PruneStep | Refused:
    """The step, or why there is none; any refusal but for the choices of a cell is an error of the test."""
    try:
        spec = CompressionSpec.model_validate({"prune": prune_of(cell)})
    except ValidationError as error:
        (item,) = error.errors()
        assert item["type"] == "does_not_combine", item
        return Refused(str(item["ctx"]["at"]), item["msg"])
    (step,) = spec.masking
    return step


def name_of(cell: Cell) -> str:
    """A cell in words."""
    return " ".join(str(choice) for choice in cell.values())


def refused_pairs() -> list[tuple[Cell, Refused]]:
    """Every cell that is refused though only two of its choices are not the usual ones."""
    refusals: dict[str, tuple[Cell, Refused]] = {}
    for first, second in itertools.combinations(AXES, 2):
        for one, other in itertools.product(AXES[first], AXES[second]):
            cell = USUAL | {first: one, second: other}
            refused = step_of(cell)
            if isinstance(refused, Refused):
                refusals[name_of(cell)] = (cell, refused)
    return list(refusals.values())
