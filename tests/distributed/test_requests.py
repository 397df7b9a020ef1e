"""A request names its cards: a run without a service computes it in as many processes, to the same bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.bodies.job import JobRequest
from app.settings import Settings
from tests.fixtures.library.tiny_models import write_tiny_model
from workers.local_run import left_to_a_service, run
from workers.processes import machine
from workers.supervisor.supervise import Watch


@pytest.mark.deep
def test_a_run_on_two_cards_gives_the_bytes_of_one(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    spec = {
        "prune": {"method": "sparsegpt", "sparsity": 0.5},
        "calibration": {"samples": 12, "sequence_length": 32},
        "evaluate": {"latency": False, "perplexity": [{"sequence_length": 32, "max_windows": 4}]},
    }
    weights: list[str] = []
    for gpus, threads in ((None, 1), (2, 2)):
        body: dict[str, Any] = {"source": {"kind": "local", "path": str(model_dir)}, "spec": spec}
        body["limits"] = {"gpus": gpus}
        said: list[BaseModel] = []
        settings = Settings(home=tmp_path / f"home-{gpus}", threads=threads, device="cpu")
        output = tmp_path / f"output-{gpus}"
        job = JobRequest.model_validate_json(json.dumps(body))
        assert run(job, output, settings, said.append), said[-1]
        weights.append(hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest())
        report = json.loads((output / "report.json").read_text())
        assert report["environment"]["threads"] == 1, "two processes share two threads"
    assert weights[0] == weights[1]


def test_ranks_share_the_threads_and_are_watched_by_their_steps() -> None:
    settings = Settings(threads=6, device="cpu")
    assert [machine.threads_of(settings, gpus) for gpus in (None, 1, 4, 8)] == [6, 6, 1, 1]
    assert [Watch.of("compute", settings, gpus=gpus).of_ranks for gpus in (None, 1, 2)] == [False, False, True]


def test_a_search_on_several_cards_is_left_to_a_service() -> None:
    search = {"prune": {"method": "magnitude", "sparsity": 0.5}, "objective": {"max_relative_perplexity_increase": 0.1}}
    source = {"kind": "local", "path": "/model"}
    for gpus, refused in ((2, ["/limits/gpus"]), (1, []), (None, [])):
        job = JobRequest.model_validate({"source": source, "spec": search, "limits": {"gpus": gpus}})
        assert [pointer for pointer, _ in left_to_a_service(job, Settings())] == refused
