"""The artifact directory: complete, loadable by stock transformers, described by its manifest."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from espalier.export import card_data
from espalier.export.outputs import front_matter
from espalier.export.runtime_notes import runtime_notes
from espalier.messages import PhaseCompleted, PhaseStarted
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model


def test_the_folder_holds_everything_and_the_manifest_describes_it(tmp_path: Path, texts: Path, llama: Path) -> None:
    (llama / "pytorch_model.bin").write_bytes(b"no")
    job = local_job(tmp_path, llama, texts)
    done = job.attempt()
    kinds = {file.path: file.kind for file in done.files}
    assert kinds == {
        "README.md": "card",
        "config.json": "model",
        "generation_config.json": "model",
        "manifest.json": "manifest",
        "masks.safetensors": "mask",
        "model.safetensors": "model",
        "report.json": "report",
        "tokenizer.json": "tokenizer",
        "tokenizer_config.json": "tokenizer",
    }
    assert {path.name for path in job.artifact.iterdir()} == set(kinds)
    assert done.files[-1].path == "manifest.json"
    for file in done.files:
        data = (job.artifact / file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    manifest = json.loads((job.artifact / "manifest.json").read_text())
    assert manifest["files"] == [file.model_dump() for file in done.files[:-1]]
    assert manifest["seeds"] == {"calibration": 0}
    assert json.loads((job.artifact / "report.json").read_text()) == done.report


def test_metadata_holds_nothing_that_differs_between_equal_jobs(tmp_path: Path, texts: Path, llama: Path) -> None:
    jobs = [local_job(tmp_path / name, llama, texts) for name in ("a", "b")]
    for job in jobs:
        job.attempt()
        with safe_open(job.artifact / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    for name in ("model.safetensors", "masks.safetensors"):
        assert (jobs[0].artifact / name).read_bytes() == (jobs[1].artifact / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_output_dtype_reaches_every_tensor_and_the_config(
    dtype: str, tmp_path: Path, texts: Path, llama: Path
) -> None:
    job = local_job(tmp_path, llama, texts, output={"dtype": dtype})
    job.attempt()
    assert {str(tensor.dtype) for tensor in load_file(job.artifact / "model.safetensors").values()} == {
        f"torch.{dtype}"
    }
    model = AutoModelForCausalLM.from_pretrained(job.artifact)
    assert model.dtype == getattr(torch, dtype)
    assert AutoTokenizer.from_pretrained(job.artifact)("while")["input_ids"]


def test_a_tensor_that_is_kept_in_float32_stays_so(tmp_path: Path, texts: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    path = model_dir / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-5
    save_file(tensors, path, {"format": "pt"})
    job = local_job(tmp_path / "job", model_dir, texts, output={"dtype": "bfloat16"})
    job.attempt()
    assert torch.equal(load_file(job.artifact / "model.safetensors")["model.norm.weight"], tensors["model.norm.weight"])


def test_the_report_shows_before_and_after_with_its_protocol(tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path, llama, texts, gate={"max_relative_perplexity_increase": 1000.0, "min_sparsity": 0.6})
    done = job.attempt()
    report = done.report
    source, result = (load_file(folder / "model.safetensors") for folder in (llama, job.artifact))
    assert report["dense"]["parameters"] == sum(tensor.numel() for tensor in source.values())
    assert report["dense"]["bytes"] == (llama / "model.safetensors").stat().st_size
    assert report["compressed"]["nonzero_parameters"] == sum(int(t.count_nonzero()) for t in result.values())
    pruned = sum(row.shape[0] * row.shape[1] for row in job.layers)
    whole = 2 * report["dense"]["parameters"]
    assert report["compressed"]["packed_bytes"] == whole - 2 * pruned // 2 + pruned // 8
    names = [phase["name"] for phase in report["phases"]]
    assert names == ["baseline", "calibrating", "pruning", "exporting", "evaluating"]
    assert report["phases"][2]["perplexity"] == report["compressed"]["perplexity"]
    assert all(phase["peak_memory_bytes"] > 10**7 and phase["seconds"] > 0 for phase in report["phases"])
    protocol = report["protocol"]["perplexity"]["text"]
    assert protocol["text_sha256"] == hashlib.sha256((texts / "valid.txt").read_bytes()).hexdigest()
    assert (protocol["windows"], protocol["sequence_length"], protocol["predicted_tokens"]) == (6, 32, 186)
    assert done.gate is not None
    assert done.gate["verdict"] == "rejected"
    assert [(check["name"], check["passed"]) for check in done.gate["checks"]] == [
        ("max_relative_perplexity_increase", True),
        ("min_sparsity", False),
    ]
    card = (job.artifact / "README.md").read_text()
    assert protocol["text_sha256"] in card
    assert "| dense |" in card


def test_phases_start_and_end_in_the_contracts_order(tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path, llama, texts)
    job.attempt()
    marks = [(type(m).__name__, m.phase) for m in job.messages if isinstance(m, PhaseStarted | PhaseCompleted)]
    assert marks == [
        (kind, phase)
        for phase in ("baseline", "calibrating", "pruning", "exporting", "evaluating")
        for kind in ("PhaseStarted", "PhaseCompleted")
    ]


def test_the_card_tells_registries_what_they_ask_and_no_path(tmp_path: Path, texts: Path, llama: Path) -> None:
    (llama / "README.md").write_text(
        "---\nlicense: other\nlicense_name: our-terms\nlicense_link: https://example.org/terms\n---\n# x\n"
    )
    train, valid = ({"kind": "local", "path": str(texts / name)} for name in ("train.txt", "valid.txt"))
    retrain = {"trainable": ["norms"], "steps": 2, "batch_size": 2, "dataset": train, "sequence_length": 32}
    job = local_job(
        tmp_path,
        llama,
        texts,
        retrain=retrain,
        calibration={"dataset": train, "samples": 4, "sequence_length": 32},
        evaluate={"latency": True, "perplexity": [{"name": "text", "dataset": valid, "sequence_length": 32}]},
        output={"publish": [{"kind": "s3", "uri": "s3://inner/llama"}, {"kind": "mlflow", "name": "inner-model"}]},
    )
    report = job.attempt().report
    text = (job.artifact / "README.md").read_text()
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    assert (data.base_model, data.datasets, data.library_name) == ("test/model", ["train"], "transformers")
    assert (data.license, data["license_name"], data["license_link"]) == (
        "other",
        "our-terms",
        "https://example.org/terms",
    )
    assert data.tags is not None
    assert "espalier" in data.tags
    (result,) = data.eval_results or []
    assert (result.metric_type, result.metric_value) == ("perplexity", report["compressed"]["perplexity"]["text"])
    assert "from transformers import AutoModelForCausalLM" in text
    raw = sum(len(block) for block in re.findall(r"```json.*?```", text, re.DOTALL))
    assert raw < len(text) / 3
    for name in ("README.md", "report.json", "manifest.json"):
        content = (job.artifact / name).read_text()
        assert str(tmp_path.parent) not in content, name
        assert str(texts) not in content, name
        assert "inner" not in content, name
    assert "valid.txt" in text


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ({"kind": "nm", "n": 2, "m": 4}, "vLLM removed its 2:4 kernels"),
        ({"kind": "nm", "n": 4, "m": 8}, "Zeros in a pattern (4:8): stock runtimes run them as dense"),
        ({"kind": "group", "g": 4}, "Zeros in a pattern (group/1x4/row)"),
        ({"kind": "unstructured"}, "Unstructured zeros"),
    ],
)
def test_only_zeros_without_a_pattern_are_called_so(
    pattern: dict[str, Any], expected: str, tmp_path: Path, texts: Path, llama: Path
) -> None:
    prune = {"method": "magnitude", "pattern": pattern} | ({} if "n" in pattern else {"sparsity": 0.5})
    (line,) = runtime_notes(local_job(tmp_path, llama, texts, prune=prune).session(), achieved=0.5)
    assert expected in line


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n", {"license": "apache-2.0"}),
        ("---\nlicense: llama3.1\n---\n", {"license": "llama3.1", "license_link": "LICENSE.txt"}),
        ("---\nlicense: [mit, gpl]\n---\n", {"license": "other", "license_name": "unknown"}),
        ("---\nlicense: {a: &x [*x]}\n---\n", {"license": "other", "license_name": "unknown"}),
        ("---\nlicense: other\nlicense_name: 'a: b\\n'\n---\n", {"license": "other", "license_name": "unknown"}),
        ("---\nlicense_link: /srv/models/terms\n---\n", {"license": "other", "license_name": "unknown"}),
        ('---\nlicense_link: "https://a.b/\\ud83d"\n---\n', {"license": "other", "license_name": "unknown"}),
        ("no front matter", {"license": "other", "license_name": "unknown"}),
    ],
)
def test_the_licence_is_the_sources(card: str, expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    if "license_link" in expected:
        (tmp_path / "LICENSE.txt").touch()
    assert card_data.licence(front_matter(tmp_path / "README.md"), tmp_path) == expected
