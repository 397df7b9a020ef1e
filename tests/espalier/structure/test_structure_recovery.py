"""Recovery behind the removal of whole parts: targets and teachers are the source, and adapters merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from espalier.errors import TargetsError
from espalier.messages import Metric
from espalier.recipe.spec import CompressionSpec
from tests.espalier.structure.removals import logits, report_of, run
from tests.fixtures.library.jobs import LocalJob
from tests.fixtures.library.tiny_models import write_tiny_model

DEPTH: dict[str, Any] = {"method": "block_influence", "pattern": {"kind": "depth", "count": 1}}
NEURONS: dict[str, Any] = {"method": "two_ssp", "sparsity": 0.5}
HEADS: dict[str, Any] = {"method": "two_ssp", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}}
PERP: dict[str, Any] = {"steps": 4, "batch_size": 2, "rank": 2, "sequence_length": 32, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama of three blocks."""
    return write_tiny_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=3, dtype=torch.float32)


def errors(job: LocalJob, name: str) -> list[float]:
    return [message.value for message in job.messages if isinstance(message, Metric) and message.name.endswith(name)]


@pytest.mark.parametrize(
    ("steps", "window", "mode"),
    [
        ([DEPTH], "block", "sparse_inputs_dense_targets"),
        ([DEPTH], "submodule", "sparse_inputs"),
        ([NEURONS], "submodule", "dense_inputs"),
        ([NEURONS, HEADS], "all", "sparse_inputs"),
        ([DEPTH, NEURONS], "auto", "sparse_inputs"),
    ],
)
def test_windows_are_fitted_to_the_source(
    steps: list[dict[str, Any]], window: str, mode: str, tmp_path: Path, texts: Path, deep: Path
) -> None:
    reconstruct = {"window": window, "mode": mode, "epochs": 2, "trainable": ["weights"]}
    job = run(tmp_path, deep, texts, *steps, reconstruct=reconstruct)
    before, after = errors(job, "error_before"), errors(job, "error_after")
    assert max(before) > 0, "the targets are the smaller model's own"
    assert all(a <= b for a, b in zip(after, before, strict=True))
    assert sum(after) < sum(before)
    assert not any(item["code"] == "nothing_to_reconstruct" for item in report_of(job)["warnings"])


@pytest.mark.parametrize("mode", ["sparse_inputs", "sparse_inputs_dense_targets"])
def test_halves_that_stand_side_by_side_take_over_together(mode: str, tmp_path: Path, texts: Path) -> None:
    """The second half is asked for what the first leaves of the source's block and the removed ones behind it."""
    model = write_tiny_model(tmp_path / "model", "gpt_neox", num_hidden_layers=3, dtype=torch.float32)
    reconstruct = {"window": "submodule", "mode": mode, "epochs": 2, "trainable": ["weights"]}
    step = {"method": "angular", "pattern": {"kind": "depth", "count": 2}}  # never the first block alone
    job = run(tmp_path / "job", model, texts, step, reconstruct=reconstruct)
    before, after = errors(job, "error_before"), errors(job, "error_after")
    gone = report_of(job)["protocol"]["structure"][0]["removed_blocks"]
    assert (max(before) > 1e-9) == (gone[0] > 0)
    assert sum(after) <= sum(before)


def test_a_block_takes_over_the_work_of_the_one_behind_it(tmp_path: Path, texts: Path, deep: Path) -> None:
    """The target of the block before a cut is what the source has behind the removed block."""
    job = run(tmp_path, deep, texts, DEPTH, reconstruct={"window": "block", "epochs": 1})
    gone = report_of(job)["protocol"]["structure"][0]["removed_blocks"][0]
    by_block = {
        message.step: message.value
        for message in job.messages
        if isinstance(message, Metric) and message.name == "block.error_before"
    }
    assert by_block[gone - 1 if gone else 0] > 0
    untouched = [index for index in by_block if index < gone - 1]
    assert all(by_block[index] == pytest.approx(0, abs=1e-9) for index in untouched)


def test_the_first_block_stands_in_for_those_before_it(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", num_hidden_layers=3, dtype=torch.float32)
    tensors = load_file(model / "model.safetensors")
    for name in tensors:
        if name.startswith("model.layers.0.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] *= 0.02  # hardly turns the states: this one goes
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    job = run(tmp_path / "job", model, texts, DEPTH, reconstruct={"window": "block", "epochs": 1})
    assert report_of(job)["protocol"]["structure"][0]["removed_blocks"] == [0]
    before = errors(job, "error_before")
    assert before[0] > 0
    assert before[1] == pytest.approx(0, abs=1e-9)


def test_keeping_everything_leaves_nothing_to_reconstruct(tmp_path: Path, texts: Path, deep: Path) -> None:
    job = run(tmp_path, deep, texts, {**NEURONS, "sparsity": 0.0}, reconstruct={"window": "submodule", "epochs": 1})
    assert any(item["code"] == "nothing_to_reconstruct" for item in report_of(job)["warnings"])
    assert torch.equal(logits(job.artifact), logits(deep))


@pytest.mark.parametrize(
    ("steps", "retrain"),
    [
        ([DEPTH], {"loss": "kl", "trainable": ["norms"]}),
        ([NEURONS], {"loss": "squarehead", "trainable": ["norms"]}),
        ([DEPTH, HEADS], {"loss": "kl", "trainable": ["lora_prune"]}),
        ([NEURONS], {"trainable": ["norms", "mask_lora"]}),
    ],
)
def test_what_is_left_learns_from_the_source_and_adapters_merge(
    steps: list[dict[str, Any]], retrain: dict[str, Any], tmp_path: Path, texts: Path, deep: Path
) -> None:
    plain = run(tmp_path / "plain", deep, texts, *steps)
    job = run(tmp_path / "job", deep, texts, *steps, retrain=PERP | retrain)
    a, b = (load_file(each.artifact / "model.safetensors") for each in (plain, job))
    assert {name: value.shape for name, value in a.items()} == {name: value.shape for name, value in b.items()}
    report = report_of(job)
    curve = errors(job, "validation_loss")
    assert report["protocol"]["retraining"]["kept_step"] > 0
    assert min(curve) < curve[0]
    moved = {name for name in a if not torch.equal(a[name], b[name])}
    assert any("norm" in name for name in moved) == ("norms" in retrain["trainable"])
    assert any("proj" in name for name in moved) == any("lora" in name for name in retrain["trainable"])
    assert report["compressed"]["perplexity"]["text"] > 1


def test_an_adapter_that_stays_apart_fits_the_smaller_model(tmp_path: Path, texts: Path, deep: Path) -> None:
    job = run(tmp_path, deep, texts, DEPTH, NEURONS, retrain=PERP | {"trainable": ["lora"]})
    tensors = load_file(job.artifact / "adapter" / "adapter_model.safetensors")
    assert {tensor.shape[1] for name, tensor in tensors.items() if "down_proj.lora_A" in name} == {32}
    assert json.loads((job.artifact / "config.json").read_text())["num_hidden_layers"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"retrain": PERP | {"rank": 12, "trainable": ["mask_lora"]}},
        {"reconstruct": {"trainable": ["mask_lora"], "rank": 12}},
    ],
)
def test_a_rank_is_held_against_what_is_left(fields: dict[str, Any], tmp_path: Path, texts: Path, deep: Path) -> None:
    with pytest.raises(TargetsError, match="k_proj is only 8 x 32, too small for a rank of 12"):  # 16 x 32 before
        run(tmp_path, deep, texts, HEADS, **fields)


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"prune": [DEPTH], "retrain": {"loss": "squarehead"}}, "retrain/loss"),
        ({"prune": [NEURONS], "reconstruct": {"window": "matrix"}}, "reconstruct/window"),
    ],
)
def test_what_shapes_do_not_allow_is_refused_before_it_runs(fields: dict[str, Any], at: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        CompressionSpec.model_validate(fields)
    (error,) = refusal.value.errors()
    assert error["ctx"]["at"] == at
