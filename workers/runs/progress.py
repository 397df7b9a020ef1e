"""One number for a whole job: its phases weighed by how long they usually take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.specs.lifecycle import PHASES, Phase

_WEIGHTS: Final[Mapping[Phase, float]] = {
    "resolving": 1, "fetching": 3, "baseline": 8, "calibrating": 2, "pruning": 20, "reconstructing": 30,
    "retraining": 30, "merging": 1, "evaluating": 8, "exporting": 2, "uploading": 3, "publishing": 0,
}  # fmt: skip
"""Shares on a CPU with the default spec; only their order of magnitude matters."""


def overall(spec: Mapping[str, Any], phase: Phase, current: int, total: int) -> float:
    """Return how far the job is, 0 to 1, given how far this phase is."""
    planned = [name for name in PHASES if _planned(spec, name) or name == phase]
    before = sum(_WEIGHTS[name] for name in planned[: planned.index(phase)])
    share = min(current / total, 1.0) if total > 0 else 0.0
    return float((before + _WEIGHTS[phase] * share) / sum(_WEIGHTS[name] for name in planned))


def _planned(spec: Mapping[str, Any], phase: Phase) -> bool:
    if phase == "reconstructing":
        return bool(spec.get("reconstruct"))
    if phase in {"retraining", "merging"}:
        return bool(spec.get("retrain"))
    return True
