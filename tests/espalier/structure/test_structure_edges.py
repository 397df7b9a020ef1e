"""Removing whole parts at its edges: what it costs to choose, what stays untouched, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from espalier import pipeline
from espalier.evaluate import certificate
from espalier.memory import MemoryEstimate
from espalier.session import Session, limits
from espalier.stream.hidden_states import HiddenStates, windows_per_batch
from tests.espalier.structure.removals import logits, report_of, run
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import write_tiny_model

DEPTH: dict[str, Any] = {"method": "angular", "pattern": {"kind": "depth", "count": 1}}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama of four blocks."""
    return write_tiny_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=4, dtype=torch.float32)


@pytest.mark.parametrize("method", ["block_influence", "angular"])
def test_a_cheap_criterion_of_blocks_costs_one_pass_of_the_calibration_text(
    method: str, tmp_path: Path, texts: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    output = HiddenStates.output

    def counted(stream: HiddenStates, block: torch.nn.Module, batch: Any) -> torch.Tensor:
        seen.append(len(batch.hidden_BTD))
        return output(stream, block, batch)

    monkeypatch.setattr(HiddenStates, "output", counted)
    run(tmp_path, deep, texts, {"method": method, "sparsity": 0.5})
    assert windows_per_batch(32) >= 12, "one batch"
    assert seen == [certificate.WINDOWS] * 4 + [12] * 4, "the certificate, then the calibration"


def test_a_multiple_that_does_not_divide_takes_nothing_where_nothing_goes(
    tmp_path: Path, texts: Path, deep: Path
) -> None:
    step = {"method": "structured_obs", "sparsity": 0.0, "pattern": {"kind": "neurons", "multiple_of": 48}}
    job = run(tmp_path, deep, texts, step)
    before, after = (load_file(folder / "model.safetensors") for folder in (deep, job.artifact))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert report_of(job)["advice"] == ["No zeros and no fewer parameters: no runtime gains."]


def test_a_model_that_was_not_timed_is_not_said_to_be(tmp_path: Path, texts: Path, deep: Path) -> None:
    (line,) = report_of(run(tmp_path, deep, texts, DEPTH))["advice"]
    assert "every runtime" in line
    assert "nothing was timed" in line


def test_fewer_experts_are_not_said_to_be_faster(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "mixtral", dtype=torch.float32)
    report = report_of(run(tmp_path / "job", model, texts, {"method": "reap", "sparsity": 0.5}))
    assert report["compressed"]["bytes"] < report["dense"]["bytes"]
    assert report["compressed"]["macs_per_token"] == report["dense"]["macs_per_token"]
    (line,) = report["advice"]
    assert "A single token is no faster" in line


@pytest.mark.parametrize(
    "dense",
    [
        {"mlp_only_layers": [0, 2]},
        {"decoder_sparse_step": 2},
        {"decoder_sparse_step": 2, "mlp_only_layers": [1]},
    ],
)
def test_blocks_without_experts_are_known_by_their_new_numbers(
    dense: dict[str, Any], tmp_path: Path, texts: Path
) -> None:
    model = write_tiny_model(tmp_path / "model", "qwen3_moe", num_hidden_layers=4, dtype=torch.float32, **dense)
    tensors = load_file(model / "model.safetensors")
    for name in tensors:  # the first block passes its input on, so that it goes and all others move up
        if ".layers.0." in name and name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    step = {"method": "block_influence", "pattern": {"kind": "depth", "count": 1}}
    job = run(tmp_path / "job", model, texts, step)
    assert report_of(job)["protocol"]["structure"][0]["removed_blocks"] == [0]
    assert torch.equal(logits(job.artifact), logits(model))


@pytest.mark.parametrize(
    "steps",
    [
        [DEPTH | {"replace": "least_squares"}, {"method": "structured_obs", "sparsity": 0.5}],
        [{"method": "flap", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}}],
    ],
)
def test_hidden_states_in_files_change_no_bit(
    steps: list[dict[str, Any]], tmp_path: Path, texts: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, bound = (_job(tmp_path / name, deep, texts, steps) for name in ("free", "bound"))
    free.attempt()
    parts = MemoryEstimate(process=10, text=0, outer=20, block=25, samples=5, hidden_states=60, model=50)
    monkeypatch.setattr(limits, "measured", lambda _: parts)
    request = bound.request().model_copy(update={"max_host_memory_bytes": 90})
    session = Session(request, lambda _: None)
    pipeline.compute(session)
    assert isinstance(session.states_in, Path)
    assert session.states_in.is_dir()
    a, b = (job.artifact / "model.safetensors" for job in (free, bound))
    assert a.read_bytes() == b.read_bytes()


def test_the_card_tells_how_much_memory_the_job_took(tmp_path: Path, texts: Path, deep: Path) -> None:
    job = run(tmp_path, deep, texts, DEPTH)
    peak = max(row["peak_memory_bytes"] for row in json.loads((job.artifact / "report.json").read_text())["phases"])
    assert f"{peak:,}" in (job.artifact / "README.md").read_text()


def _job(folder: Path, model: Path, texts: Path, steps: list[dict[str, Any]]) -> LocalJob:
    folder.mkdir()
    return local_job(folder, model, texts, prune=steps, output={"dtype": "float32"})
