"""The pruning walk: exact masks, sequential statistics, resumption without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from espalier.errors import NumericalError, TargetsError
from espalier.messages import Checkpoint, Layer, Message
from espalier.model.masks import unpack
from espalier.session import Session
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job
from tests.fixtures.library.tiny_models import FAMILIES, write_tiny_model


def _tensors(job: LocalJob) -> dict[str, torch.Tensor]:
    return load_file(job.artifact / "model.safetensors")


def _masks(job: LocalJob) -> dict[str, torch.Tensor]:
    """Pruned matrices' masks from the artifact, by module name (O, I)."""
    shapes = {row.name: row.shape for row in job.layers}
    packed = load_file(job.artifact / "masks.safetensors")
    return {name: unpack(bits, num_inputs=shapes[name][1]) for name, bits in packed.items()}


@pytest.mark.deep
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loses_exactly_half_of_every_row(family: str, tmp_path: Path, texts: Path) -> None:
    job = local_job(tmp_path / "job", write_tiny_model(tmp_path / "model", family), texts)
    done = job.attempt()
    tensors, source = _tensors(job), load_file(job.model_dir / "model.safetensors")
    layers, masks, matrices = job.layers, _masks(job), job.session().streamed.layout.by_name
    assert len(layers) == len(masks) > 0
    for name, mask_OI in masks.items():
        before, after = (matrices[name].view(each[matrices[name].tensor]) for each in (source, tensors))
        assert (mask_OI.sum(dim=1) == mask_OI.shape[1] // 2).all()
        assert torch.equal(after, before.masked_fill(~mask_OI, 0))
    untouched = set(tensors) - {matrices[name].tensor for name in masks}
    assert all(torch.equal(tensors[name], source[name]) for name in untouched)
    assert done.report["sparsity"] == {"requested": 0.5, "achieved": 0.5, "scope": "pruned matrices"}
    assert all(0 < row.error_before < 1 and row.error_after == row.error_before for row in layers)  # type: ignore[operator]


def test_a_block_is_calibrated_on_what_the_pruned_blocks_before_it_give(
    tmp_path: Path, texts: Path, llama: Path
) -> None:
    job = local_job(tmp_path, llama, texts)
    job.attempt()
    masks = _masks(job)
    for index in (0, 1):  # blocks before `index` pruned, the block itself still dense
        model = AutoModelForCausalLM.from_pretrained(job.model_dir, dtype=torch.float32).eval()
        state = model.state_dict()
        for name, mask_OI in masks.items():
            if int(name.split(".")[2]) < index:
                state[f"{name}.weight"].masked_fill_(~mask_OI, 0)
        name = f"model.layers.{index}.mlp.down_proj"
        inputs: list[torch.Tensor] = []
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, seen=inputs: seen.append(args[0]))
        with torch.no_grad():
            model(Session(job.request(), lambda _: None).calibration_windows())
        norm_I = inputs[0].double().flatten(end_dim=1).square().sum(dim=0).sqrt()
        score_OI = state[f"{name}.weight"].double().abs() * norm_I
        order = score_OI.sort(dim=1, stable=True).indices[:, :32]
        assert torch.equal(torch.ones_like(score_OI, dtype=torch.bool).scatter(1, order, False), masks[name])


SPECS: dict[str, dict[str, Any]] = {
    "wanda": {},
    "magnitude": {"prune": {"method": "magnitude", "sparsity": 0.5}},
    "random": {"prune": {"method": "random", "sparsity": 0.5}},
    "global": {"prune": {"method": "wanda", "sparsity": 0.5, "pattern": {"kind": "unstructured", "scope": "global"}}},
    "nm": {"prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 1, "m": 4}}},
    "owl": {"prune": {"method": "dass", "sparsity": 0.5, "budget": {"kind": "owl"}}},
    "better masks": {
        "prune": {
            "method": "ria",
            "sparsity": 0.5,
            "budget": {"kind": "lamp"},
            "optimizer": {"kind": "sparsefw", "iterations": 9},
        }
    },
    "float32": {"output": {"dtype": "float32"}},
    "dense": {"propagation": "dense"},
    "dense Gram matrices": {"propagation": "dense", "prune": {"method": "sparsegpt", "sparsity": 0.5}},
}


@pytest.mark.parametrize(
    "case",
    [
        case if case in {"wanda", "better masks", "dense"} else pytest.param(case, marks=pytest.mark.deep)
        for case in SPECS
    ],
)
def test_a_job_killed_at_every_checkpoint_ends_with_the_same_bytes(
    case: str, tmp_path: Path, texts: Path, llama: Path
) -> None:
    whole = local_job(tmp_path / "whole", llama, texts, **SPECS[case])
    expected = whole.attempt()
    total = sum(isinstance(message, Checkpoint) for message in whole.messages)
    killed = local_job(tmp_path / "killed", llama, texts, **SPECS[case])
    seen: list[str] = []

    def at_a_new_checkpoint(message: Message) -> bool:
        return isinstance(message, Checkpoint)

    for _ in range(total):
        with pytest.raises(KilledError):
            killed.attempt(kill_at=at_a_new_checkpoint)
        seen += [message.name for message in killed.messages if isinstance(message, Layer)]
    done = killed.attempt()
    assert not any(isinstance(message, Checkpoint) for message in killed.messages)
    assert sorted(seen) == sorted(row.name for row in whole.layers)  # every row once, over all attempts
    for name in ("model.safetensors", "masks.safetensors", "config.json"):
        assert (killed.artifact / name).read_bytes() == (whole.artifact / name).read_bytes()
    assert done.report["compressed"] == expected.report["compressed"]
    assert done.report["dense"] == expected.report["dense"]


def test_sparsity_zero_gives_bit_identical_tensors(tmp_path: Path, texts: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", "opt", tied=True, max_shard_size="40KB")
    job = local_job(tmp_path / "job", model_dir, texts, prune={"method": "wanda", "sparsity": 0.0})
    report = job.attempt().report
    source: dict[str, torch.Tensor] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        source |= load_file(path)
    tensors = _tensors(job)
    assert list(tensors) == list(source)
    assert all(torch.equal(tensors[name].view(torch.int16), source[name].view(torch.int16)) for name in source)
    assert report["compressed"]["perplexity"] == report["dense"]["perplexity"]
    assert report["sparsity"]["achieved"] == 0


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (4, 8)])
def test_n_of_m_are_kept(n: int, m: int, tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path, llama, texts, prune={"method": "wanda", "pattern": {"kind": "nm", "n": n, "m": m}})
    job.attempt()
    for row in job.layers:
        weight_OI = _tensors(job)[f"{row.name}.weight"]
        assert int((weight_OI != 0).view(row.shape[0], -1, m).sum(dim=2).max()) == n
        assert row.pattern == f"{n}:{m}"
        assert row.sparsity_achieved == 1 - n / m


def test_the_global_budget_is_exact_over_the_model(tmp_path: Path, texts: Path, llama: Path) -> None:
    prune = {"method": "magnitude", "sparsity": 0.37, "pattern": {"kind": "unstructured", "scope": "global"}}
    job = local_job(tmp_path, llama, texts, prune=prune)
    report = job.attempt().report
    masks = _masks(job)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.37 * total)
    source = load_file(llama / "model.safetensors")
    kept = torch.cat([source[f"{name}.weight"].abs()[mask] for name, mask in masks.items()])
    gone = torch.cat([source[f"{name}.weight"].abs()[~mask] for name, mask in masks.items()])
    assert gone.max() <= kept.min()
    assert len({row.sparsity_achieved for row in job.layers}) > 1
    assert "global_scope_on_dense_activations" in [warning["code"] for warning in report["warnings"]]


def test_an_empty_list_takes_the_zeros_of_a_sparse_model_as_masks(tmp_path: Path, texts: Path, llama: Path) -> None:
    first = local_job(tmp_path / "first", llama, texts)
    first.attempt()
    again = local_job(tmp_path / "again", first.artifact, texts, prune=[])
    report = again.attempt().report
    assert (again.artifact / "model.safetensors").read_bytes() == (first.artifact / "model.safetensors").read_bytes()
    assert (again.artifact / "masks.safetensors").read_bytes() == (first.artifact / "masks.safetensors").read_bytes()
    assert report["sparsity"]["requested"] is None
    assert report["sparsity"]["achieved"] == 0.5
    assert {row.pattern for row in again.layers} == {"given"}


def test_targets_choose_by_name(tmp_path: Path, texts: Path, llama: Path) -> None:
    targets = {"include": [r"layers\.1\.", "down_proj"], "exclude": ["k_proj"]}
    job = local_job(tmp_path, llama, texts, prune={"method": "wanda", "sparsity": 0.5, "targets": targets})
    job.attempt()
    assert {row.name.removeprefix("model.layers.") for row in job.layers} == {
        "0.mlp.down_proj",
        "1.mlp.down_proj",
        "1.mlp.up_proj",
        "1.mlp.gate_proj",
        "1.self_attn.q_proj",
        "1.self_attn.v_proj",
        "1.self_attn.o_proj",
    }


@pytest.mark.parametrize(
    ("prune", "words"),
    [
        ({"sparsity": 0.5, "targets": {"include": ["lm_head"]}}, "lm_head"),
        ({"sparsity": 0.5, "targets": {"exclude": ["."]}}, "select no matrix"),
        ({"pattern": {"kind": "nm", "n": 2, "m": 3}}, "do not divide into groups of 3"),
    ],
)
def test_what_cannot_be_pruned_is_refused_with_a_hint(
    prune: dict[str, Any], words: str, tmp_path: Path, texts: Path, llama: Path
) -> None:
    with pytest.raises(TargetsError, match=words) as caught:
        local_job(tmp_path, llama, texts, prune={"method": "wanda", **prune}).attempt()
    assert caught.value.hint
    assert not (tmp_path / "artifact").exists()


def test_weights_that_are_not_finite_name_their_module(tmp_path: Path, texts: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    path = model_dir / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("inf")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(NumericalError) as caught:
        local_job(tmp_path / "job", model_dir, texts, evaluate={"perplexity": []}).attempt()
    assert caught.value.module == "model.layers.1.mlp.up_proj"
