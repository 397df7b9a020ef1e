"""Removing whole parts: the result is a stock model, says what it is, and is what removal by hand gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from espalier.errors import EngineError
from espalier.messages import Checkpoint
from espalier.stream import hidden_states
from tests.espalier.structure.removals import TOKENS, logits, report_of, run
from tests.fixtures.library.jobs import KilledError, local_job
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama of four blocks."""
    return write_tiny_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=4, dtype=torch.float32)


@pytest.mark.parametrize("method", ["block_influence", "angular", "perplexity"])
def test_a_shorter_model_is_the_model_without_those_blocks(
    method: str, tmp_path: Path, texts: Path, deep: Path
) -> None:
    job = run(tmp_path, deep, texts, {"method": method, "sparsity": 0.5})
    protocol = report_of(job)["protocol"]["structure"]
    gone = protocol[0]["removed_blocks"]
    assert len(gone) == 2
    assert json.loads((job.artifact / "config.json").read_text())["num_hidden_layers"] == 2
    model = AutoModelForCausalLM.from_pretrained(deep, dtype=torch.float32).eval()
    model.model.layers = torch.nn.ModuleList([layer for i, layer in enumerate(model.model.layers) if i not in gone])
    model.config.num_hidden_layers = 2
    with torch.no_grad():
        assert torch.equal(model(TOKENS, use_cache=False).logits, logits(job.artifact))
    report = report_of(job)
    assert report["compressed"]["parameters"] < report["dense"]["parameters"]
    assert report["compressed"]["bytes"] < report["dense"]["bytes"]


@pytest.mark.parametrize(
    "step",
    [
        {"method": "angular", "pattern": {"kind": "depth", "count": 0}},
        {"method": "structured_obs", "sparsity": 0.0},
        {"method": "flap", "sparsity": 0.0, "pattern": {"kind": "kv_groups"}},
    ],
)
def test_a_job_that_keeps_everything_is_bit_identical(
    step: dict[str, Any], tmp_path: Path, texts: Path, deep: Path
) -> None:
    job = run(tmp_path, deep, texts, step)
    before, after = (load_file(folder / "model.safetensors") for folder in (deep, job.artifact))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_block_that_is_linear_in_what_the_last_one_adds_is_replaced_exactly(
    tmp_path: Path, texts: Path, deep: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in deep.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    for name in tensors:
        if name.startswith("model.layers.2.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = torch.zeros_like(tensors[name])  # the block passes its input on
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    step = {"method": "block_influence", "pattern": {"kind": "depth", "count": 1}, "replace": "least_squares"}
    job = run(tmp_path / "job", model, texts, step)
    assert report_of(job)["protocol"]["structure"][0]["removed_blocks"] == [2]
    torch.testing.assert_close(logits(job.artifact), logits(model), rtol=1e-3, atol=1e-3)


def test_a_replacement_comes_closer_than_a_plain_cut(tmp_path: Path, texts: Path, deep: Path) -> None:
    step = {"method": "angular", "pattern": {"kind": "depth", "count": 2}}
    plain = run(tmp_path / "plain", deep, texts, step)
    replaced = run(tmp_path / "replaced", deep, texts, step | {"replace": "least_squares"})
    a, b = (load_file(job.artifact / "model.safetensors") for job in (plain, replaced))
    changed = [name for name in a if not torch.equal(a[name], b[name])]
    assert len(changed) == 1
    assert changed[0].endswith("mlp.down_proj.weight")


@pytest.mark.deep
@pytest.mark.parametrize("method", ["magnitude_sp", "wanda_sp", "flap", "two_ssp", "structured_obs"])
@pytest.mark.parametrize("kind", ["neurons", "kv_groups"])
def test_a_narrower_model_loads_and_is_the_masked_one(
    method: str, kind: str, tmp_path: Path, texts: Path, deep: Path
) -> None:
    job = run(tmp_path, deep, texts, {"method": method, "sparsity": 0.5, "pattern": {"kind": kind}})
    config = json.loads((job.artifact / "config.json").read_text())
    expected = {"intermediate_size": 32} if kind == "neurons" else {"num_attention_heads": 2, "num_key_value_heads": 1}
    assert expected.items() <= config.items()
    report = report_of(job)
    protocol = report["protocol"]["structure"][0]
    assert protocol["kept"] * 2 == protocol["of"]
    assert report["compressed"]["perplexity"]["text"] > 1
    assert torch.isfinite(logits(job.artifact)).all()
    assert protocol["update"] == {"flap": "bias_mean", "structured_obs": "least_squares"}.get(method, "none")
    has_bias = any(name.endswith("bias") for name in load_file(job.artifact / "model.safetensors"))
    assert has_bias == (method == "flap")


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt", "mistral"])
def test_removing_a_dead_neuron_changes_nothing(family: str, tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", family, dtype=torch.float32)
    tensors = load_file(model / "model.safetensors")
    dead = torch.tensor([3, 17, 40, 63])
    for name in tensors:
        if name.endswith(("down_proj.weight", "fc2.weight")):
            tensors[name][:, dead] = 0
        if name.endswith(("up_proj.weight", "gate_proj.weight", "fc1.weight", "fc1.bias")):
            tensors[name][dead] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    for method in ("magnitude_sp", "structured_obs"):
        job = run(tmp_path / method, model, texts, {"method": method, "sparsity": 4 / 64, "update": "none"})
        torch.testing.assert_close(logits(job.artifact), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mixtral"])
def test_removing_a_dead_group_of_heads_changes_nothing(family: str, tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", family, dtype=torch.float32)
    tensors = load_file(model / "model.safetensors")
    for name in tensors:  # the first of two groups: heads 0 and 1 of four, 8 wide
        if name.endswith("o_proj.weight"):
            tensors[name][:, :16] = 0
        elif name.endswith("q_proj.weight"):
            tensors[name][:16] = 0
        elif name.endswith(("k_proj.weight", "v_proj.weight")):
            tensors[name][:8] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    for method in ("magnitude_sp", "structured_obs"):
        step = {"method": method, "sparsity": 0.5, "pattern": {"kind": "kv_groups"}, "update": "none"}
        job = run(tmp_path / method, model, texts, step)
        torch.testing.assert_close(logits(job.artifact), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_removing_a_block_that_passes_everything_on_changes_nothing(family: str, tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", family, dtype=torch.float32)
    tensors = load_file(model / "model.safetensors")
    writers = ("o_proj", "down_proj", "c_proj", "attention.dense", "dense_4h_to_h")
    for name in tensors:
        if ".1." in name and name.rpartition(".")[0].endswith(writers):
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    job = run(tmp_path / "job", model, texts, {"method": "block_influence", "sparsity": 0.5})
    assert report_of(job)["protocol"]["structure"][0]["removed_blocks"] == [1]
    assert torch.equal(logits(job.artifact), logits(model))


def test_a_report_says_what_became_of_size_and_speed(tmp_path: Path, texts: Path, deep: Path) -> None:
    step = {"method": "angular", "sparsity": 0.5}
    report = report_of(run(tmp_path, deep, texts, step, evaluate={"perplexity": []}))
    dense, compressed = report["dense"], report["compressed"]
    assert compressed["macs_per_token"] < dense["macs_per_token"]
    for side in (dense, compressed):
        assert side["latency"]["decode_seconds_per_token"]["median"] > 0
    assert "every runtime" in report["advice"][0]
    assert "ms per token" in (tmp_path / "artifact" / "README.md").read_text()


def test_widths_are_rounded_to_the_multiple_asked_for(tmp_path: Path, texts: Path, deep: Path) -> None:
    pattern = {"kind": "neurons", "multiple_of": 24}
    job = run(tmp_path, deep, texts, {"method": "two_ssp", "sparsity": 0.3, "pattern": pattern})
    assert json.loads((job.artifact / "config.json").read_text())["intermediate_size"] == 48


def test_depth_then_width_then_two_of_four_then_perp_then_pack(tmp_path: Path, texts: Path, deep: Path) -> None:
    steps = (
        {"method": "block_influence", "sparsity": 0.25, "replace": "least_squares"},
        {"method": "structured_obs", "sparsity": 0.5},
        {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
    )
    retrain = {"trainable": ["norms", "mask_lora"], "steps": 4, "batch_size": 2, "rank": 2, "sequence_length": 32}
    tmp_path.joinpath("job").mkdir()
    job = local_job(tmp_path / "job", deep, texts, prune=list(steps), retrain=retrain, output={"format": "both"})
    job.attempt()
    tensors = load_file(job.artifact / "model.safetensors")
    down = tensors["model.layers.0.mlp.down_proj.weight"]
    assert down.shape == (32, 32)
    assert bool(((down.view(-1, 4) != 0).sum(dim=1) <= 2).all())
    assert sum("input_layernorm" in name for name in tensors) == 3
    assert (job.artifact / "model.packed.safetensors").exists()
    AutoModelForCausalLM.from_pretrained(job.artifact)


@pytest.mark.parametrize(
    "step",
    [
        {"method": "perplexity", "sparsity": 0.5, "replace": "least_squares"},
        {"method": "flap", "sparsity": 0.5},
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(
    step: dict[str, Any], tmp_path: Path, texts: Path, deep: Path
) -> None:
    whole = run(tmp_path / "whole", deep, texts, step)
    (tmp_path / "killed").mkdir()
    job = local_job(tmp_path / "killed", deep, texts, prune=[step], output={"dtype": "float32"})
    kills = 0
    for count in range(1, 6):
        seen: list[str] = []

        def third(message: Any, count: int = count, seen: list[str] = seen) -> bool:
            if isinstance(message, Checkpoint) and message.name.startswith("structure"):
                seen.append(message.name)
            return len(seen) == count

        try:
            job.attempt(kill_at=third)
        except KilledError:
            kills += 1
        else:
            break
    assert kills >= 1
    a, b = (j.artifact / "model.safetensors" for j in (whole, job))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("family", "step", "why"),
    [
        ("gemma2", {"method": "angular", "sparsity": 0.5, "replace": "least_squares"}, "norm"),
        ("bloom", {"method": "two_ssp", "sparsity": 0.5}, "stock"),
        ("opt", {"method": "wanda_sp", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}}, "stock"),
        ("olmo2", {"method": "wanda_sp", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}}, "all heads together"),
        ("mixtral", {"method": "two_ssp", "sparsity": 0.5}, "mixture of experts"),
        ("qwen2", {"method": "flap", "sparsity": 0.5, "update": "bias_mean"}, "no bias"),
    ],
)
def test_what_no_stock_configuration_can_carry_is_refused_with_the_reason(
    family: str, step: dict[str, Any], why: str, tmp_path: Path, texts: Path
) -> None:
    model = write_tiny_model(tmp_path / "model", family)
    with pytest.raises(EngineError) as refusal:
        run(tmp_path / "job", model, texts, step)
    assert why in f"{refusal.value} {refusal.value.hint}"


def test_what_stands_in_for_blocks_is_placed_once_and_not_for_every_batch(
    tmp_path: Path, texts: Path, deep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "TOKENS_PER_BATCH", 64)  # six batches
    casts: list[object] = []

    class Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64 and args[0].shape == (32, 32):
                casts.append(kwargs)
            return func(*args, **(kwargs or {}))

    with Noting():  # type: ignore[no-untyped-call]
        job = run(tmp_path, deep, texts, {"method": "block_influence", "sparsity": 0.25, "replace": "least_squares"})
    assert report_of(job)["protocol"]["structure"][0]["removed_blocks"]
    assert len(casts) == 1
