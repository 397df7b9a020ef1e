"""Pruning by several ranks gives the bytes of one: windows are shared, matrices dealt out, sums keep their order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espalier.distributed.group import RankGroup
from espalier.messages import Checkpoint
from espalier.model.numerics import deterministic
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.jobs import LocalJob, local_job, write_texts
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
FILES = ("model.safetensors", "masks.safetensors")


def hashes(job: LocalJob) -> dict[str, str]:
    return {name: hashlib.sha256((job.artifact / name).read_bytes()).hexdigest() for name in FILES}


def numbers(job: LocalJob) -> list[tuple[str, object, object]]:
    return [(row.name, row.error_before, row.error_after) for row in job.layers]


def computed_by(size: int, make: Callable[[], LocalJob]) -> tuple[dict[str, str], list[tuple[str, object, object]]]:
    """Run a job in a group of ranks; what its leader wrote and said."""

    def work(group: RankGroup) -> Any:
        job = make()
        job.attempt(group=group)
        return numbers(job), [message.name for message in job.messages if isinstance(message, Checkpoint)]

    (rows, written), *others = run_ranks(size, work)
    assert written
    assert others == [(rows, [])] * (size - 1), "all know the same, and one alone writes"
    return hashes(make()), rows


@pytest.mark.parametrize(
    ("case", "family", "size"),
    [
        ("wanda", "llama", 2),
        *(
            pytest.param(case, family, size, marks=pytest.mark.deep)
            for case in STEPS
            for family in ("llama", "mixtral")
            for size in (2, 4, 8)
            if (case, family, size) != ("wanda", "llama", 2) and (case, family) not in NO_PAIRS
        ),
    ],
)
def test_any_number_of_ranks_gives_the_same_bytes(case: str, family: str, size: int, tmp_path: Path) -> None:
    model_dir, texts = write_tiny_model(tmp_path / "model", family), write_texts(tmp_path)
    alone = local_job(tmp_path / "alone", model_dir, texts, **STEPS[case])
    with deterministic(threads=1):
        alone.attempt()
    found = computed_by(size, lambda: local_job(tmp_path / "together", model_dir, texts, **STEPS[case]))
    assert found == (hashes(alone), numbers(alone))
