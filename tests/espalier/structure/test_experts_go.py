"""Removing experts: the router narrows with them, and the result is the stock model with the experts that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from espalier.errors import TargetsError, UnsupportedArchitectureError
from espalier.methods.experts.frequency import Frequency
from espalier.methods.experts.output_variance import OutputVariance
from espalier.methods.experts.reap import Reap
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.hidden_states import HiddenStates
from espalier.structure.expert_weights import find_mixture, routing
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import write_tiny_model

TOKENS = torch.arange(48).view(2, 24) + 60


def run(folder: Path, model: Path, texts: Path, **step: Any) -> LocalJob:
    folder.mkdir(parents=True, exist_ok=True)
    job = local_job(folder, model, texts, prune=[step], output={"dtype": "float32"})
    job.attempt()
    return job


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    values: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(TOKENS).logits
    return values


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_what_is_seen_of_the_routing_is_what_the_formulas_say(family: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, family, dtype=torch.float32)
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
    weights = Weights(folder)
    stream = HiddenStates(streamed, TOKENS, weights)
    seen: dict[int, list[tuple[float, torch.Tensor]]] = {}
    with streamed.block(0, weights) as module:
        mixture = find_mixture(streamed.layout.blocks[0], module, weights)
        assert mixture is not None
        experts = module.get_submodule(mixture.local)
        assert isinstance(experts, torch.nn.ModuleList)

        def by_hand(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            x_TI, chosen_TK, share_TK = args
            for token in range(len(x_TI)):
                for place in range(chosen_TK.shape[1]):
                    index = int(chosen_TK[token, place])
                    output = type(experts[index]).forward(experts[index], x_TI[token : token + 1])[0]
                    seen.setdefault(index, []).append((float(share_TK[token, place]), output.detach().double()))

        handle = experts.register_forward_pre_hook(by_hand)
        with routing(module, mixture, 32) as statistics:
            stream.advance(module)
        handle.remove()
    for index in range(mixture.count):
        rows = seen.get(index, [])
        assert int(statistics.tokens_E[index]) == len(rows)
        if rows:
            outputs = torch.stack([output for _, output in rows])
            mean = sum(weight * float(output.norm()) for weight, output in rows) / len(rows)
            assert float(Reap().score(statistics)[index]) == pytest.approx(mean, rel=1e-5)
            variance = float((outputs - outputs.mean(dim=0)).square().sum(dim=1).mean())
            assert float(OutputVariance().score(statistics)[index]) == pytest.approx(len(rows) * variance, rel=1e-4)
    assert Frequency().score(statistics).sum() == TOKENS.numel() * 2


@pytest.mark.parametrize("method", ["reap", "frequency", "output_variance"])
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_that_no_token_reaches_go_and_change_nothing(
    family: str, method: str, tmp_path: Path, texts: Path
) -> None:
    model = write_tiny_model(tmp_path / "model", family, dtype=torch.float32)
    tensors = load_file(model / "model.safetensors")
    for name in tensors:  # hidden states have a positive first coordinate, and the router reads it against two experts
        if name.endswith(("o_proj.weight", "w2.weight", "down_proj.weight")):
            tensors[name][0] = 0.0
        elif name.endswith("embed_tokens.weight"):
            tensors[name][:, 0] = 10.0
        elif name.endswith("gate.weight") and tensors[name].shape[0] in {4, 8}:
            tensors[name][:, 0] = 0.0
            tensors[name][[1, 3]] = 0.0
            tensors[name][[1, 3], 0] = -100.0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    total = 4 if family == "mixtral" else 8
    job = run(tmp_path / "job", model, texts, method=method, sparsity=0.25)
    config = json.loads((job.artifact / "config.json").read_text())
    assert config["num_local_experts"] == total * 3 // 4
    torch.testing.assert_close(logits(job.artifact), logits(model), rtol=1e-5, atol=1e-5)
    report = json.loads((job.artifact / "report.json").read_text())
    assert report["protocol"]["structure"] == [
        {"kind": "experts", "method": method, "kept": total * 3 // 4, "of": total}
    ]


def test_keeping_every_expert_is_bit_identical(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "mixtral", dtype=torch.float32)
    job = run(tmp_path / "job", model, texts, method="reap", sparsity=0.0)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, job.artifact))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_experts_that_stay_are_the_old_ones_under_new_numbers(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "mixtral", dtype=torch.float32)
    job = run(tmp_path / "job", model, texts, method="reap", sparsity=0.5)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, job.artifact))
    prefix = "model.layers.1.block_sparse_moe"
    old = [before[f"{prefix}.experts.{index}.w2.weight"] for index in range(4)]
    kept = [
        next(index for index in range(4) if torch.equal(old[index], after[f"{prefix}.experts.{new}.w2.weight"]))
        for new in range(2)
    ]
    assert kept == sorted(kept)
    assert torch.equal(after[f"{prefix}.gate.weight"], before[f"{prefix}.gate.weight"][kept])
    assert f"{prefix}.experts.2.w2.weight" not in after


def test_experts_then_single_weights(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", "qwen3_moe", dtype=torch.float32)
    (tmp_path / "job").mkdir()
    steps = [{"method": "reap", "sparsity": 0.25}, {"method": "wanda", "sparsity": 0.5}]
    job = local_job(tmp_path / "job", model, texts, prune=steps)
    job.attempt()
    report = json.loads((job.artifact / "report.json").read_text())
    assert report["sparsity"]["achieved"] == pytest.approx(0.5, abs=0.02)
    assert torch.isfinite(logits(job.artifact)).all()


def test_what_cannot_be_is_refused(tmp_path: Path, texts: Path) -> None:
    mixtral = write_tiny_model(tmp_path / "mixtral", "mixtral")
    with pytest.raises(TargetsError, match="every token is sent to 2"):
        run(tmp_path / "a", mixtral, texts, method="reap", sparsity=0.75)
    llama = write_tiny_model(tmp_path / "llama")
    with pytest.raises(UnsupportedArchitectureError, match="no experts"):
        run(tmp_path / "b", llama, texts, method="reap", sparsity=0.5)
