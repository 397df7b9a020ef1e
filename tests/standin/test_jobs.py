"""Every word of a spec on the pretend card: no mixed device, nothing that has no deterministic kernel, no wide copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.library.every_spec import MODELS, SPECS
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.runs import run_on_card

ELSEWHERE = {"highest-sparsity", "so-many-parameters", "so-many-bytes"}
"""Searches: each of their trials is a job like the others."""
OTHER_TEXT = {"train-other-text", "train-local-text", "builtin-text", "preset"}
"""Jobs on texts that a small job of one process does not have."""
NAMES = sorted(SPECS.keys() - ELSEWHERE - OTHER_TEXT)
CROSSINGS = 4
"""Of the model in `baseline`: the certificate takes it as stock and streamed, the score once more, and some is text."""

STRETCH = 8000
"""Operators between two steps: a training step of many small experts has 4,948, all of it within a second on a card."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.deep
@pytest.mark.parametrize("name", NAMES)
def test_a_job_runs_on_the_card(
    name: str, tmp_path: Path, texts: Path, record_property: Callable[[str, object], None]
) -> None:
    spec = dict(SPECS[name])
    if "calibration" in spec:
        spec["calibration"] = {"samples": 12, "sequence_length": 32} | spec["calibration"]
    if "evaluate" in spec:
        scored = {"name": "text", "dataset": {"kind": "local", "path": str(texts / "valid.txt")}}
        few = {"latency": False, "perplexity": [scored | {"sequence_length": 32, "max_windows": 6}]}
        spec["evaluate"] = few | spec["evaluate"]
    model = write_tiny_model(tmp_path / "model", **MODELS[spec.pop("model", "llama")])
    run = run_on_card(tmp_path / "job", model, texts, **spec)
    assert run.report["compressed"]["perplexity"]["text"] > 0
    costs = [(phase, each.waits, each.to_device, each.to_host, each.peak) for phase, each in run.phases.items()]
    record_property("costs", [row for row in costs if any(row[1:-1])])
    casts = {phase: books.places["host_casts"] for phase, books in run.phases.items() if books.host_casts}
    assert casts == {}, "the host widens what crosses"
    stretches = {phase: books.longest_stretch for phase, books in run.phases.items()}
    assert max(stretches.values()) < STRETCH, "a job that computes makes steps"
    stored = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert run.phases["baseline"].to_device < CROSSINGS * stored, "a weight crosses more often, or wider than stored"
