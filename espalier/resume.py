"""Blocks that an earlier attempt finished: what it told of them is told again."""

from __future__ import annotations

from typing import Any

from espalier.messages import Layer
from espalier.session import PhaseRun


def taken_over(phase: PhaseRun, index: int) -> dict[str, Any] | None:
    """Lay a finished block over the weights, and its rows and warnings into the report; its data, None without one."""
    data = phase.stored_block(index)
    if data is None:
        return None
    session = phase.session
    for row in data["layers"]:
        session.layer(Layer.model_validate(row), silent=True)
    session.warnings += [item for item in data.get("warnings", []) if item not in session.warnings]
    return data
