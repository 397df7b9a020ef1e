"""Pruning by several ranks gives the bytes of one: windows are shared, matrices dealt out, sums keep their order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from espalier.model.numerics import deterministic
from tests.distributed.whole_jobs import computed_by, hashes, numbers
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model

HALF = {"method": "wanda", "sparsity": 0.5}
STEPS: dict[str, dict[str, Any]] = {
    "wanda": {"prune": HALF},
    "ria": {"prune": {"method": "ria", "sparsity": 0.5}},
    "sparsegpt": {"prune": {"method": "sparsegpt", "sparsity": 0.5}},
    "alps": {"prune": {**HALF, "update": {"kind": "alps"}}},
    "admm": {"prune": {**HALF, "update": {"kind": "admm"}}},
    "sparseswaps": {"prune": {**HALF, "optimizer": {"kind": "sparseswaps"}}},
    "dass": {"prune": {"method": "dass", "sparsity": 0.5}},
    "global scope": {"prune": {**HALF, "pattern": {"kind": "unstructured", "scope": "global"}}},
    "dense inputs": {"prune": HALF, "propagation": "dense"},
    "dense Gram matrices": {"prune": {"method": "sparsegpt", "sparsity": 0.5}, "propagation": "dense"},
    "owl": {"prune": {**HALF, "budget": {"kind": "owl"}}},
    "3 windows": {"prune": HALF, "calibration": {"samples": 3, "sequence_length": 32}},
    "neurons": {"prune": [{"method": "flap", "sparsity": 0.5, "pattern": {"kind": "neurons"}}, HALF]},
    "blocks": {"prune": [{"method": "angular", "pattern": {"kind": "depth", "count": 1}}, HALF]},
    "experts": {"prune": [{"method": "reap", "sparsity": 0.5, "pattern": {"kind": "experts"}}, HALF]},
}
NO_PAIRS = {("experts", "llama"), ("neurons", "mixtral")}


@pytest.mark.parametrize(
    ("case", "family"),
    [
        ("wanda", "llama"),
        *(
            pytest.param(case, family, marks=pytest.mark.deep)
            for case in STEPS
            for family in ("llama", "mixtral")
            if (case, family) not in {("wanda", "llama"), *NO_PAIRS}
        ),
    ],
)
def test_any_number_of_ranks_gives_the_same_bytes(case: str, family: str, tmp_path: Path) -> None:
    model_dir, texts = write_tiny_model(tmp_path / "model", family), write_texts(tmp_path)
    alone = local_job(tmp_path / "alone", model_dir, texts, **STEPS[case])
    with deterministic(threads=1):
        alone.attempt()
    for size in (2, 8) if family == "mixtral" else (2, 4):
        found = computed_by(size, partial(local_job, tmp_path / "together", model_dir, texts, **STEPS[case]))
        assert found == (hashes(alone), numbers(alone)), f"{size} ranks"
