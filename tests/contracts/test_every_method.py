"""What every method of every axis promises; a newcomer is tested without an edit here."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.methods.base import Method
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS, PATTERNS, SOLVERS
from espalier.recipe.steps.structure import BLOCK_CRITERIA, EXPERT_CRITERIA, UNIT_CRITERIA
from tests.contracts.cells import USUAL, prune_of, variants

STRUCTURED: dict[str, dict[str, type[Method]]] = {
    "depth": dict(BLOCK_CRITERIA),
    "neurons": dict(UNIT_CRITERIA),
    "kv_groups": dict(UNIT_CRITERIA),
    "experts": dict(EXPERT_CRITERIA),
}
AXES: dict[str, dict[str, type[Method]]] = {
    "method": dict(CRITERIA),
    "pattern": dict(PATTERNS),
    "budget": dict(BUDGETS),
    "optimizer": dict(OPTIMIZERS),
    "update": dict(SOLVERS),
}
EVERY = [
    *((axis, name, kind) for axis, found in AXES.items() for name, kind in found.items()),
    *((pattern, name, kind) for pattern, found in STRUCTURED.items() for name, kind in found.items()),
]


@pytest.mark.parametrize(("axis", "name", "kind"), EVERY, ids=[f"{axis}-{name}" for axis, name, _ in EVERY])
def test_it_stands_in_a_spec_with_every_word_it_takes_and_tells_where_it_comes_from(
    axis: str, name: str, kind: type[Method]
) -> None:
    assert kind.summary
    assert kind.paper
    assert kind.__doc__
    tag = "method" if axis in {"method", *STRUCTURED} else "kind"
    for choice in variants(kind, tag):
        asked: dict[str, Any] = (
            {**choice, "sparsity": 0.5, "pattern": {"kind": axis}}
            if axis in STRUCTURED
            else prune_of({**USUAL, axis: choice})
        )
        (step,) = CompressionSpec.model_validate({"prune": asked}).prune
        dumped = step.model_dump()
        assert choice.items() <= (dumped[axis] if tag == "kind" else dumped).items()
        assert isinstance(step, kind) or isinstance(getattr(step, axis), kind)
