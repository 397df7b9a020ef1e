"""An artifact in the packed format: measured, described, and the same model again once unpacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from espalier.packing.__main__ import main
from espalier.packing.summary import summary
from tests.fixtures.library.jobs import LocalJob, local_job


def run(folder: Path, model: Path, texts: Path, form: str, **spec: Any) -> tuple[LocalJob, dict[str, Any]]:
    folder.mkdir()
    job = local_job(folder, model, texts, output={"format": form}, evaluate={"perplexity": []}, **spec)
    return job, job.attempt().report


@pytest.mark.parametrize("pattern", [{"kind": "unstructured"}, {"kind": "nm", "n": 2, "m": 4}])
def test_a_packed_artifact_unpacks_to_the_dense_one(
    pattern: dict[str, Any], tmp_path: Path, texts: Path, llama: Path
) -> None:
    prune = {"method": "magnitude", "sparsity": 0.5, "pattern": pattern}
    dense, plain = run(tmp_path / "dense", llama, texts, "safetensors", prune=prune)
    packed, report = run(tmp_path / "packed", llama, texts, "packed", prune=prune)
    names = {path.name for path in packed.artifact.iterdir()}
    assert "model.packed.safetensors" in names
    assert "model.safetensors" not in names
    size = (packed.artifact / "model.packed.safetensors").stat().st_size
    assert report["compressed"]["packed_bytes"] == size < 0.9 * report["compressed"]["bytes"]
    assert report["compressed"]["bytes"] == plain["compressed"]["bytes"]
    assert report["protocol"]["packed_bytes"].startswith("measured")
    assert main("unpack", str(packed.artifact)) == 0
    written = (packed.artifact / "model.safetensors").read_bytes()
    assert written == (dense.artifact / "model.safetensors").read_bytes()
    manifest = json.loads((packed.artifact / "manifest.json").read_text())
    assert [(item["path"], item["bytes"]) for item in manifest["unpacked"]] == [("model.safetensors", len(written))]
    AutoModelForCausalLM.from_pretrained(packed.artifact)


def test_both_forms_stand_side_by_side(tmp_path: Path, texts: Path, llama: Path) -> None:
    job, _ = run(tmp_path / "job", llama, texts, "both", prune={"method": "magnitude", "sparsity": 0.6})
    kinds = {item["path"]: item["kind"] for item in json.loads((job.artifact / "manifest.json").read_text())["files"]}
    assert kinds["model.safetensors"] == kinds["model.packed.safetensors"] == "model"
    assert main("unpack", str(job.artifact), str(tmp_path / "out")) == 0
    there, again = (load_file(folder / "model.safetensors") for folder in (job.artifact, tmp_path / "out"))
    assert all(torch.equal(there[name], again[name]) for name in there)
    assert main("unpack", str(job.artifact)) == 0  # the same file is there already
    (job.artifact / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    assert main("unpack", str(job.artifact)) == 1  # another one is not overwritten


def test_a_packed_shard_of_every_dense_shard(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("espalier.model.safetensors_writer.SHARD_BYTES", 2**14)
    job, _ = run(tmp_path / "job", llama, texts, "packed", prune={"method": "magnitude", "sparsity": 0.5})
    packs = sorted(job.artifact.glob("model-*.packed.safetensors"))
    assert len(packs) > 2
    before = summary(job.artifact)
    assert main("unpack", str(job.artifact)) == 0
    assert summary(job.artifact) == before
    AutoModelForCausalLM.from_pretrained(job.artifact)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ({"kind": "nm", "n": 2, "m": 4}, "2:4"),
        ({"kind": "nm", "n": 4, "m": 8}, "4:8"),
        ({"kind": "nm", "n": 1, "m": 4}, "1:4"),
        ({"kind": "unstructured"}, "unstructured"),
    ],
)
def test_the_summary_counts_what_is_there(
    pattern: dict[str, Any], name: str, tmp_path: Path, texts: Path, llama: Path
) -> None:
    prune = {"method": "magnitude", "sparsity": 0.75 if name == "1:4" else 0.5, "pattern": pattern}
    job, report = run(tmp_path / "job", llama, texts, "packed", prune=prune)
    counted = summary(job.artifact)
    assert counted["parameters"] == report["compressed"]["parameters"]
    assert counted["nonzero_parameters"] == report["compressed"]["nonzero_parameters"]
    assert counted["sparse_tensors"] == {name: 14}
    assert counted["sparsity_of_sparse_tensors"] == pytest.approx(prune["sparsity"], abs=1e-3)
    assert all(item["verified"] for item in counted["files"])
    (job.artifact / "config.json").write_text("{}")
    assert [item["path"] for item in summary(job.artifact)["files"] if not item["verified"]] == ["config.json"]
