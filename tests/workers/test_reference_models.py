"""Numbers on trained models that another implementation and the models' authors have measured.

Dense values and the peer's come from the reference folder's README: float32, windows of 256 tokens, the first 200.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.specs.base import fingerprint
from app.specs.job import CompressionSpec
from tests.fixtures.jobs import LocalJob

pytestmark = pytest.mark.reference


def _job(folder: Path, reference_dir: Path, model: str, prune: list[dict[str, Any]]) -> LocalJob:
    paths = {"train": reference_dir / "calibration.txt", "docs": reference_dir / "docs.valid.txt"}
    train, docs = ({"kind": "local", "path": str(path)} for path in paths.values())
    spec = CompressionSpec.model_validate(
        {
            "calibration": {"dataset": train, "samples": 128, "sequence_length": 256, "seed": 0},
            "prune": prune,
            "evaluate": {"perplexity": [{"name": "docs", "dataset": docs, "sequence_length": 256, "max_windows": 200}]},
        }
    )
    datasets = (spec.calibration.dataset, spec.evaluate.perplexity[0].dataset)
    texts = {fingerprint(item.model_dump(mode="json")): item.model_dump()["path"] for item in datasets}
    return LocalJob(folder, reference_dir / model, spec, texts, threads=2)


def test_wanda_on_ref_llama_is_as_good_as_the_peer_and_magnitude_is_worse(tmp_path: Path, reference_dir: Path) -> None:
    wanda = _job(tmp_path / "wanda", reference_dir, "ref-llama", [{"method": "wanda", "sparsity": 0.5}])
    report = wanda.attempt().report
    assert report["dense"]["perplexity"]["docs"] == pytest.approx(31.83, abs=0.02)
    assert report["compressed"]["perplexity"]["docs"] <= 33.7  # the peer: 33.48
    magnitude = _job(tmp_path / "magnitude", reference_dir, "ref-llama", [{"method": "magnitude", "sparsity": 0.5}])
    baseline = wanda.stored["baseline", "result"]
    (tmp_path / "magnitude").mkdir()
    magnitude.stored["baseline", "result"] = baseline  # measured above
    worse = magnitude.attempt().report
    assert worse["compressed"]["perplexity"]["docs"] > report["compressed"]["perplexity"]["docs"]


def test_ref_opt_is_read_as_its_authors_read_it(tmp_path: Path, reference_dir: Path) -> None:
    report = _job(tmp_path, reference_dir, "ref-opt", []).attempt().report
    assert report["dense"]["perplexity"]["docs"] == pytest.approx(52.37, abs=0.02)
    assert report["compressed"]["perplexity"] == report["dense"]["perplexity"]
