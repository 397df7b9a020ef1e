"""One job through every door: the same bytes from the embedded services and from the production services."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.services import Services
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.launch import Launch

EVALUATE = {"perplexity": [{"sequence_length": 128, "max_windows": 16}], "after_each_phase": True}
CALIBRATION = {"samples": 16, "sequence_length": 128}
WHOLE: dict[str, Any] = {
    "calibration": CALIBRATION,
    "prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    "reconstruct": {"epochs": 1},
    "retrain": {"steps": 4, "batch_size": 4},
    "evaluate": EVALUATE,
    "gate": {"max_relative_perplexity_increase": 10.0},
}


def test_the_embedded_and_the_production_services_give_the_same_bytes(
    shared: Deployment, launch: Launch, services: Services, tmp_path: Path
) -> None:
    embedded = shared
    production = launch(
        "production",
        ESPALIER_DATABASE_URL=services.postgres_database(),
        ESPALIER_BROKER_URL=services.redis_url(),
        **services.s3_environment(),
    )
    here, there = embedded.submit(DEMO_MODEL, WHOLE), production.submit(DEMO_MODEL, WHOLE)
    embedded.succeed(here)
    production.succeed(there)

    assert embedded.safetensors(here) == production.safetensors(there)
    assert set(embedded.safetensors(here)) == {"model.safetensors", "masks.safetensors"}

    folder = production.download(there, tmp_path / "artifact")
    _loads_with_stock_transformers_and_keeps_its_zeros(folder)
    _everything_is_told(embedded, here)
    _manifest_matches_the_files(folder)


def _loads_with_stock_transformers_and_keeps_its_zeros(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    weight = model.get_parameter("model.layers.2.mlp.down_proj.weight")
    groups = (weight.detach() != 0).reshape(weight.shape[0], -1, 4).sum(-1)
    assert int(groups.max()) <= 2
    generated = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert generated.shape == (1, 7)


def _everything_is_told(deployment: Any, job: str) -> None:
    document = deployment.get(f"/v1/jobs/{job}")
    assert document["gate"]["verdict"] == "accepted"
    assert document["progress"] == 1.0
    assert document["work_hash"]
    assert document["source"]["resolved_revision"]

    layers = deployment.get(f"/v1/jobs/{job}/layers?limit=200")["items"]
    assert len(layers) == 6 * 7
    assert all(row["sparsity_achieved"] == 0.5 for row in layers)
    assert all(row["error_before"] > 0 for row in layers)

    lines = [line["text"] for line in deployment.get(f"/v1/jobs/{job}/logs")["items"]]
    assert "pruning started" in lines
    assert any(line.startswith("evaluating done in") and "python-docs" in line for line in lines)
    assert deployment.get(f"/v1/jobs/{job}/metrics")["items"]
    attempts = deployment.get(f"/v1/jobs/{job}/attempts")["items"]
    assert [row["outcome"] for row in attempts] == ["succeeded"]

    report = deployment.get(f"/v1/jobs/{job}/report")
    phases = {phase["name"]: phase for phase in report["phases"]}
    for name in ("pruning", "reconstructing", "retraining"):
        assert phases[name]["perplexity"]["python-docs"] > 1
    assert report["dense"]["perplexity"]["python-docs"] < phases["pruning"]["perplexity"]["python-docs"]
    assert report["sparsity"] == {"requested": 0.5, "achieved": 0.5, "scope": "pruned matrices"}
    assert report["trained_parameters"]["count"] > 0

    events = deployment.events(job)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "job.created"
    assert kinds[-1] == "job.succeeded"
    assert kinds.count("job.layer_completed") >= 6 * 7
    assert {"job.phase_started", "job.phase_completed", "job.metric", "job.checkpoint", "job.gate_evaluated"} <= set(
        kinds
    )


def _manifest_matches_the_files(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert {"model.safetensors", "masks.safetensors", "config.json", "report.json", "README.md"} <= set(listed)
    for name, sha256 in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    "pattern",
    [
        {"kind": "unstructured", "scope": "row"},
        pytest.param({"kind": "unstructured", "scope": "global"}, marks=pytest.mark.deep),
    ],
)
def test_a_job_with_sparsity_zero_gives_bit_identical_tensors(
    shared: Deployment, pattern: dict[str, str], tmp_path: Path
) -> None:
    job = shared.submit(
        DEMO_MODEL,
        {
            "calibration": CALIBRATION,
            "prune": {"method": "wanda", "sparsity": 0.0, "pattern": pattern},
            "evaluate": EVALUATE,
        },
    )
    shared.succeed(job)
    result = load_file(shared.download(job, tmp_path / "artifact") / "model.safetensors")
    source = load_file(DEMO_MODEL / "model.safetensors")
    assert set(result) == set(source)
    assert all(torch.equal(result[name].view(torch.uint8), source[name].view(torch.uint8)) for name in source)
    report = shared.get(f"/v1/jobs/{job}/report")
    assert report["compressed"]["perplexity"] == report["dense"]["perplexity"]
