"""Files that spell their tensors as published models do, not as transformers has them in memory."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.probe import probe
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

Tensors = dict[str, torch.Tensor]


def _renamed(pattern: str, replacement: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {re.sub(pattern, replacement, name): value for name, value in tensors.items()}


def _bare_gpt2(tensors: Tensors) -> Tensors:
    triangle = torch.ones(128, 128).tril().view(1, 1, 128, 128)
    buffers = {f"h.{index}.attn.bias": triangle.clone() for index in (0, 1)}
    return _renamed(r"^transformer\.", "")(tensors) | buffers


def _pythia(tensors: Tensors) -> Tensors:
    for index in (0, 1):
        tensors[f"gpt_neox.layers.{index}.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        tensors[f"gpt_neox.layers.{index}.attention.masked_bias"] = torch.tensor(-1e9).to(torch.bfloat16)
        tensors[f"gpt_neox.layers.{index}.attention.rotary_emb.inv_freq"] = torch.ones(2)
    return _renamed(r"^lm_head\.", "embed_out.")(tensors)


def _stacked(tensors: Tensors) -> Tensors:
    """Experts in one tensor, as transformers has them in memory."""
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    tensors = {re.sub(r"\bw[123]\b", lambda m: names[m[0]], name): value for name, value in tensors.items()}
    tensors = _renamed("block_sparse_moe", "mlp")(tensors)
    for index in (0, 1):
        prefix = f"model.layers.{index}.mlp.experts"
        experts = sorted({int(name.split(".")[5]) for name in tensors if name.startswith(prefix)})
        maps = {
            part: torch.stack([tensors.pop(f"{prefix}.{each}.{part}.weight") for each in experts])
            for part in names.values()
        }
        tensors[f"{prefix}.gate_up_proj"] = torch.cat([maps["gate_proj"], maps["up_proj"]], dim=1)
        tensors[f"{prefix}.down_proj"] = maps["down_proj"]
    return tensors


CASES: dict[str, tuple[str, bool, Callable[[Tensors], Tensors]]] = {
    "gpt2 without the prefix, with triangles": ("gpt2", True, _bare_gpt2),
    "bloom without the prefix": ("bloom", True, _renamed(r"^transformer\.", "")),
    "pythia": ("gpt_neox", False, _pythia),
    "opt without the prefix": ("opt", True, _renamed(r"^model\.", "")),
    "mixtral as it was published": ("mixtral", False, lambda tensors: tensors),
    "mixtral stacked": ("mixtral", False, _stacked),
    "qwen3 with stacked experts": ("qwen3_moe", False, _stacked),
}


@dataclass
class Pair:
    """One model twice: as save_pretrained writes it, and spelled otherwise."""

    usual: Path
    other: Path
    texts: Path


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, tied, respell = request.param
    folder = tmp_path_factory.mktemp(family)
    usual = write_tiny_model(folder / "usual", family, tied=tied)
    other = shutil.copytree(usual, folder / "other")
    path = other / "model.safetensors"
    save_file({name: value.contiguous() for name, value in respell(load_file(path)).items()}, path, {"format": "pt"})
    return Pair(usual, other, write_texts(folder))


def test_they_are_the_same_model(pair: Pair) -> None:
    facts = [probe(folder) for folder in (pair.usual, pair.other)]
    assert facts[0].model_copy(update={"bytes": 0}) == facts[1].model_copy(update={"bytes": 0})
    tokens_BT = torch.randint(VOCABULARY, (2, 24), generator=generator(0))
    logits, names = [], []
    for folder in (pair.usual, pair.other):
        streamed = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu"))
        names.append([(matrix.name, matrix.shape) for matrix in streamed.layout.matrices])
        with streamed.whole(Weights(folder)) as model, torch.no_grad():
            logits.append(model(tokens_BT).logits)
    assert names[0] == names[1]
    assert torch.equal(*logits)


def test_a_job_that_prunes_nothing_gives_back_the_bits_and_the_names(pair: Pair, tmp_path: Path) -> None:
    job = local_job(tmp_path, pair.other, pair.texts, prune={"method": "magnitude", "sparsity": 0.0})
    job.attempt()
    before, after = (load_file(folder / "model.safetensors") for folder in (pair.other, job.artifact))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.deep
def test_the_spelling_changes_nothing_in_what_is_pruned(pair: Pair, tmp_path: Path) -> None:
    prune = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}
    jobs = [local_job(tmp_path / f"{side.name}", side, pair.texts, prune=prune) for side in (pair.usual, pair.other)]
    reports = [job.attempt().report for job in jobs]
    models = [AutoModelForCausalLM.from_pretrained(job.artifact, output_loading_info=True) for job in jobs]
    states = [model.state_dict() for model, _ in models]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not models[1][1]["missing_keys"]
    masks = [(job.artifact / "masks.safetensors").read_bytes() for job in jobs]
    assert masks[0] == masks[1]
    for key in ("perplexity", "parameters", "nonzero_parameters"):
        assert reports[0]["compressed"][key] == reports[1]["compressed"][key]
    assert (
        reports[0]["sparsity"]
        == reports[1]["sparsity"]
        == {"requested": 0.5, "achieved": 0.5, "scope": "pruned matrices"}
    )
