"""Soups and cycles at the edge of what they ask for."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.retrain import SCHEDULES


@pytest.mark.parametrize(
    "spec",
    [
        {"retrain": {"steps": 4}, "cycles": {"count": 4}},
        {"retrain": {}, "soup": {"members": len(SCHEDULES), "vary": "schedule"}},
        {"retrain": {}, "soup": {"members": len(SCHEDULES) + 1, "vary": "order"}},
    ],
)
def test_what_just_suffices_is_accepted(spec: dict[str, Any]) -> None:
    assert CompressionSpec.model_validate({"prune": {"method": "wanda", "sparsity": 0.5}} | spec)
