"""Recovery of a trained model with biases, LayerNorm and a tied head; ref-llama's numbers go through the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.recovery import assert_zeros_hold, recovery
from workers.phases.scoring import score_weights

DENSE = 52.37
"""ref-opt on docs.valid: 200 windows of 256 tokens, from the reference folder's README."""


@pytest.mark.numbers
@pytest.mark.reference
def test_submodule_windows_win_back_most_of_what_ref_opt_lost(tmp_path: Path, reference_dir: Path) -> None:
    train, docs = reference_dir / "calibration.txt", reference_dir / "docs.valid.txt"
    evaluation: dict[str, Any] = {
        "name": "docs",
        "dataset": {"kind": "local", "path": str(docs)},
        "sequence_length": 256,
        "max_windows": 200,
    }
    job = recovery(
        tmp_path,
        reference_dir / "ref-opt",
        train,
        calibration={"dataset": {"kind": "local", "path": str(train)}, "samples": 128, "sequence_length": 256},
        prune=[{"method": "wanda", "sparsity": 0.7}],
        reconstruct={"epochs": 2},
        evaluate={"perplexity": [evaluation], "after_each_phase": True},
    )
    context = job.recover()
    assert score_weights(context, context.dense)["docs"] == pytest.approx(DENSE, abs=0.02), "the protocol differs"
    numbers = {done.phase: done.perplexity["docs"] for done in context.phases if done.perplexity}
    assert 80 < numbers["pruning"] < 90  # a peer: 85.52
    recovered = (numbers["pruning"] - numbers["reconstructing"]) / (numbers["pruning"] - DENSE)
    assert recovered > 0.6
    assert_zeros_hold(context.weights, context)
