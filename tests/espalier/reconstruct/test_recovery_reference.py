"""What windows win back on the reference models: one pruned model, fitted window by window in every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espalier.evaluate.scoring import score_weights
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, recovery

DENSE = {"ref-llama": 31.83, "ref-opt": 52.37}
"""Perplexity on docs.valid: 200 windows of 256 tokens, from the reference folder's README."""
PRUNE: dict[str, dict[str, Any]] = {
    "50 %": {"sparsity": 0.5},
    "70 %": {"sparsity": 0.7},
    "2:4": {"pattern": {"kind": "nm", "n": 2, "m": 4}},
}


def _job(folder: Path, reference: Path, model: str, prune: dict[str, Any], **reconstruct: Any) -> Recovery:
    train, docs = reference / "calibration.txt", reference / "docs.valid.txt"
    measured: dict[str, Any] = {
        "name": "docs",
        "dataset": {"kind": "local", "path": str(docs)},
        "sequence_length": 256,
        "max_windows": 200,
    }
    return recovery(
        folder,
        reference / model,
        train,
        calibration={"dataset": {"kind": "local", "path": str(train)}, "samples": 128, "sequence_length": 256},
        prune=[{"method": "wanda"} | prune],
        reconstruct=reconstruct,
        evaluate={"perplexity": [measured], "after_each_phase": True},
    )


def _perplexities(job: Recovery) -> dict[str, float]:
    """By phase; the zeros are proved on the way."""
    session = job.recover()
    assert_zeros_hold(session.weights, session)
    return {done.phase: done.perplexity["docs"] for done in session.results.phases if done.perplexity}


@pytest.mark.numbers
@pytest.mark.reference
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", DENSE)
@pytest.mark.parametrize("prune", PRUNE)
def test_windows_with_a_nonlinearity_win_back_most_and_single_matrices_hardly_more(
    tmp_path: Path, reference_dir: Path, model: str, prune: str
) -> None:
    dense, pruned = DENSE[model], 0.0
    shares: dict[str, float] = {}
    known: Recovery | None = None
    for window in ("submodule", "block", "matrix"):
        job = _job(tmp_path, reference_dir, model, PRUNE[prune], window=window)
        if known is not None:  # the pruned model is the same
            job.stored = {key: item for key, item in known.stored.items() if key[0] != "reconstructing"}
        known = known or job
        numbers = _perplexities(job)
        pruned = numbers["pruning"]
        shares[window] = (pruned - numbers["reconstructing"]) / (pruned - dense)
    solved = _job(tmp_path / "solved", reference_dir, model, PRUNE[prune] | {"update": {"kind": "least_squares"}})
    solved.spec = solved.spec.model_copy(update={"reconstruct": None})
    session = solved.recover()
    assert score_weights(session, session.dense)["docs"] == pytest.approx(dense, abs=0.02), "the protocol differs"
    shares["least squares"] = (pruned - score_weights(session, session.weights)["docs"]) / (pruned - dense)
    print(f"\n{model} {prune}: pruned {pruned:.2f}, won back " + str({k: round(v, 3) for k, v in shares.items()}))  # noqa: T201
    assert shares["submodule"] >= 0.6
    # Much sparsity spoils what a matrix reads; below that, single matrices are a little better here.
    assert shares["matrix"] < shares["submodule"] + (0.0 if prune == "70 %" else 0.05)
    assert abs(shares["block"] - shares["submodule"]) <= 0.10
