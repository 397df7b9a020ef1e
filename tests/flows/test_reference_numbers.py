"""The reference numbers, every one of them through POST /v1/jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.service.deployment import Deployment

DENSE = 31.83


def _spec(reference: Path, prune: dict[str, Any], windows: int, **more: Any) -> dict[str, Any]:
    return {
        "calibration": {
            "dataset": {"kind": "local", "path": str(reference / "calibration.txt")},
            "samples": 128,
            "sequence_length": 256,
            "seed": 0,
        },
        "prune": prune,
        "evaluate": {
            "perplexity": [
                {
                    "name": "docs",
                    "dataset": {"kind": "local", "path": str(reference / "docs.valid.txt")},
                    "sequence_length": 256,
                    "max_windows": windows,
                }
            ]
        },
        **more,
    }


def _run(
    deployment: Deployment, reference: Path, prune: dict[str, Any], *, windows: int = 200, **more: Any
) -> dict[str, Any]:
    job = deployment.submit(reference / "ref-llama", _spec(reference, prune, windows, **more))
    deployment.succeed(job, timeout=900)
    return deployment.get(f"/v1/jobs/{job}/report")


@pytest.mark.numbers
@pytest.mark.reference
@pytest.mark.slow
def test_wanda_keeps_the_reference_model_near_its_known_perplexity(shared: Deployment, reference_dir: Path) -> None:
    wanda = _run(shared, reference_dir, {"method": "wanda", "sparsity": 0.5})
    dense = wanda["dense"]["perplexity"]["docs"]
    assert dense == pytest.approx(DENSE, abs=0.02), "the protocol differs"
    assert dense < _final(wanda) <= 33.7


@pytest.mark.numbers
@pytest.mark.reference
@pytest.mark.timeout(1800)
def test_recovery_wins_back_what_is_known(shared: Deployment, reference_dir: Path) -> None:

    magnitude = _run(shared, reference_dir, {"method": "magnitude", "sparsity": 0.5})
    half = _run(shared, reference_dir, {"method": "wanda", "sparsity": 0.5}, reconstruct={})
    sparse_70 = _run(shared, reference_dir, {"method": "wanda", "sparsity": 0.7}, reconstruct={})
    perp = _run(
        shared,
        reference_dir,
        {"method": "wanda", "sparsity": 0.7},
        retrain={"trainable": ["norms", "mask_lora"], "steps": 80, "batch_size": 8, "sequence_length": 256},
    )

    assert _final(magnitude) > _pruned(half)
    assert _recovered(half) >= 0.6
    assert _recovered(sparse_70) >= 0.6
    assert _recovered(perp) >= 0.6


def _final(report: dict[str, Any]) -> float:
    return float(report["compressed"]["perplexity"]["docs"])


def _pruned(report: dict[str, Any]) -> float:
    phase = next(phase for phase in report["phases"] if phase["name"] == "pruning")
    return float(phase["perplexity"]["docs"])


def _recovered(report: dict[str, Any]) -> float:
    """Share of the perplexity lost by pruning that recovery won back."""
    dense = float(report["dense"]["perplexity"]["docs"])
    return (_pruned(report) - _final(report)) / (_pruned(report) - dense)
