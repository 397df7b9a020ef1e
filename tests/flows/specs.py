"""Specs that several flows run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPEC: dict[str, Any] = {
    "calibration": {"samples": 32, "sequence_length": 128},
    "prune": {"method": "wanda", "sparsity": 0.6},
    "reconstruct": {"epochs": 1},
    "evaluate": {"perplexity": [{"sequence_length": 128, "max_windows": 8}]},
}
"""Prune and reconstruct the demo's model, long enough to be killed in the middle."""


def spec(folder: Path, **more: Any) -> dict[str, Any]:
    """Prune a tiny model; calibration and measurement read the texts of a folder."""
    train, valid = ({"kind": "local", "path": str(folder / name)} for name in ("train.txt", "valid.txt"))
    return {
        "calibration": {"dataset": train, "samples": 12, "sequence_length": 32},
        "prune": {"method": "wanda", "sparsity": 0.5},
        "evaluate": {
            "latency": False,  # no two measurements are equal
            "perplexity": [{"name": "text", "dataset": valid, "sequence_length": 32, "max_windows": 6}],
        },
        **more,
    }
