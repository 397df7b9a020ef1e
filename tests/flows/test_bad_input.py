"""Bad input gets a clear problem with a pointer and a hint, and leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.service.deployment import Deployment

WANDA = {"prune": {"method": "wanda", "sparsity": 0.5}}


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))


def _only_bin(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _names_code(folder: Path) -> None:
    _edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Model"})


def _names_a_kernel(folder: Path) -> None:
    _edit_config(folder, attn_implementation="someone/kernel")


def _unknown_family(folder: Path) -> None:
    _edit_config(folder, model_type="mamba", architectures=["MambaForCausalLM"])


def _fewer_blocks(folder: Path) -> None:
    _edit_config(folder, num_hidden_layers=4)


def _truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1000])


MODELS: list[tuple[Callable[[Path], None], str]] = [
    (_pickled, "source-unsafe"),
    (_only_bin, "source-unsafe"),
    (_names_code, "source-unsafe"),
    (_names_a_kernel, "source-unsafe"),
    (_unknown_family, "unsupported-architecture"),
    (_fewer_blocks, "source-unsafe"),
    (_truncated, "source-unsafe"),
]

SPECS: list[tuple[dict[str, Any], str]] = [
    ({"prune": {"method": "wanda", "sparsity": 1.0}}, "/spec/prune/sparsity"),
    ({"prune": {"method": "wanda", "sparsity": -0.1}}, "/spec/prune/sparsity"),
    ({"prune": {"method": "wanda", "sparsity": False}}, "/spec/prune/sparsity"),
    ({"prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 3}}}, "/spec/prune/pattern"),
    (
        {"prune": {"method": "wanda", "sparsity": 0.9, "pattern": {"kind": "nm", "n": 2, "m": 4}}},
        "/spec/prune/sparsity",
    ),
    ({"prune": {"method": "wanda", "sparsity": 0.5, "colour": "red"}}, "/spec/prune/colour"),
    ({"prune": {"method": "no_such_method", "sparsity": 0.5}}, "/spec/prune/method"),
    (WANDA | {"retrain": {"trainable": ["biases"]}}, "/spec/retrain/trainable"),
    (WANDA | {"retrain": {"trainable": ["spp", "lora"]}}, "/spec/retrain/trainable/1"),
    (WANDA | {"soup": {"members": 3}}, "/spec/soup"),
    (WANDA | {"calibration": {"sequence_length": 4096}}, "/spec/calibration/sequence_length"),
    (WANDA | {"evaluate": {"perplexity": [{"dataset": {"kind": "builtin"}}]}}, "/spec/evaluate/perplexity/0/dataset"),
    (WANDA | {"calibration": {"dataset": {"kind": "local", "path": "/etc/passwd"}}}, "/spec/calibration/dataset/path"),
]


def _refused(shared: Deployment, body: dict[str, Any]) -> dict[str, Any]:
    answer = shared.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"} <= set(problem)
    assert problem["errors"], problem
    return problem


def test_what_the_api_can_know_is_refused_before_anything_is_written(shared: Deployment, tmp_path: Path) -> None:
    before = shared.get("/v1/jobs?limit=200")["items"]
    for index, (spoil, code) in enumerate(MODELS):
        folder = tmp_path / f"model-{index}"
        shutil.copytree(DEMO_MODEL, folder)
        spoil(folder)
        problem = _refused(shared, {"source": {"kind": "local", "path": str(folder)}, "spec": WANDA})
        assert problem["code"] == code, (spoil.__name__, problem)
        assert problem["errors"][0]["pointer"].startswith("/source"), problem

    source = {"kind": "local", "path": str(DEMO_MODEL)}
    for spec, pointer in SPECS:
        problem = _refused(shared, {"source": source, "spec": spec})
        assert problem["errors"][0]["pointer"] == pointer, (spec, problem)

    for path in ("/etc", str(tmp_path / ".." / ".."), "relative/folder"):
        problem = _refused(shared, {"source": {"kind": "local", "path": path}, "spec": WANDA})
        assert problem["errors"][0]["pointer"] == "/source/path"

    assert shared.get("/v1/jobs?limit=200")["items"] == before


def test_what_only_the_run_can_know_is_a_failed_job_with_its_class_and_a_hint(
    shared: Deployment, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt.gz"  # unpacked, it could be any length
    short.write_bytes(gzip.compress(b"A few words are no calibration set.\n"))
    dataset = {"kind": "local", "path": str(short)}
    spec = WANDA | {"calibration": {"dataset": dataset, "samples": 64}, "evaluate": {"perplexity": []}}
    job = shared.submit(DEMO_MODEL, spec)
    document = shared.finish(job)
    assert document["state"] == "failed"
    assert document["error"]["class"] == "dataset_error"
    assert document["error"]["hint"]
    assert "Traceback" not in json.dumps(document)
    assert shared.artifacts(job) == {}
    assert shared.http.get(f"/v1/jobs/{job}/report").status_code == 409
