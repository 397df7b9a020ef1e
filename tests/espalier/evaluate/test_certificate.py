"""Every job compares what it computes with stock transformers, and ends where the two differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from espalier.errors import NumericalError, UnsupportedArchitectureError
from espalier.evaluate import baseline, certificate
from espalier.evaluate.scoring import score_weights
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import FAMILIES, write_tiny_model

RETRAIN = {"retrain": {"method": "full", "steps": 2, "learning_rate": 0.01}}


def with_head(folder: Path, family: str, *, equal: bool) -> Path:
    """A model whose configuration ties head and embeddings, and whose files hold both."""
    model_dir = write_tiny_model(folder, family, tied=True, dtype=torch.float32)
    tensors = load_file(model_dir / "model.safetensors")
    name = next(name for name in tensors if ("embed" in name and "position" not in name) or name.endswith("wte.weight"))
    other = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(1))
    tensors["lm_head.weight"] = tensors[name].clone() if equal else other
    save_file(tensors, model_dir / "model.safetensors", {"format": "pt"})
    return model_dir


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
def test_a_head_beside_the_flag_is_tied_where_it_is_the_embeddings(family: str, tmp_path: Path, *, equal: bool) -> None:
    model_dir = with_head(tmp_path / "model", family, equal=equal)
    stock = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    streamed = StreamedModel(model_dir, compute_dtype=torch.float32, device=torch.device("cpu"))
    assert (streamed.separate_head is None) is equal
    tokens = torch.arange(24).view(2, 12)
    with torch.no_grad(), streamed.whole(Weights(model_dir)) as model:
        actual, expected = model(input_ids=tokens).logits, stock(input_ids=tokens).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)  # kernels add in another order when crowded


@pytest.mark.parametrize("spec", [{}, RETRAIN], ids=["pruned", "retrained"])
def test_a_head_of_its_own_is_scored_kept_and_said(spec: dict[str, Any], tmp_path: Path, texts: Path) -> None:
    job = local_job(tmp_path / "job", with_head(tmp_path / "model", "llama", equal=False), texts, **spec)
    done = job.attempt()
    assert [w["code"] for w in done.report["warnings"]].count("separate_head") == 1
    assert json.loads((job.artifact / "config.json").read_text())["tie_word_embeddings"] is False
    untied = write_tiny_model(tmp_path / "untied", "llama", dtype=torch.float32)
    save_file(load_file(tmp_path / "model" / "model.safetensors"), untied / "model.safetensors", {"format": "pt"})
    honest = local_job(tmp_path / "honest", untied, texts, **spec).attempt()
    for side in ("dense", "compressed"):
        assert done.report[side]["perplexity"] == honest.report[side]["perplexity"]
        assert done.report[side]["parameters"] == honest.report[side]["parameters"]


def test_a_tied_head_that_is_stored_twice_stays_equal_when_the_embeddings_are_trained(
    tmp_path: Path, texts: Path
) -> None:
    job = local_job(tmp_path / "job", with_head(tmp_path / "model", "llama", equal=True), texts, **RETRAIN)
    job.attempt()
    written = load_file(job.artifact / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
    before = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    assert not torch.equal(written["lm_head.weight"], before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_family_passes(family: str, dtype: str, tmp_path: Path, texts: Path) -> None:
    session = local_job(
        tmp_path / "job", write_tiny_model(tmp_path / "model", family), texts, compute_dtype=dtype
    ).session()
    report = certificate.run(session).document
    assert report["verdict"] == "passed"
    assert report["class"] == session.streamed.stock_class
    assert 0 < report["share_left_dense"] < 0.1


def test_a_forward_pass_that_differs_ends_the_job(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_block = StreamedModel.forward
    monkeypatch.setattr(StreamedModel, "forward", lambda *args: run_block(*args) * 1.01)
    job = local_job(tmp_path, llama, texts)
    with pytest.raises(UnsupportedArchitectureError, match="differs from that of stock LlamaForCausalLM"):
        job.attempt()


def test_a_matrix_that_is_read_without_a_call_ends_the_job(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_a_call(mlp: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = mlp.down_proj(mlp.act_fn(x @ mlp.gate_proj.weight.T) * mlp.up_proj(x))
        return out

    monkeypatch.setattr(LlamaMLP, "forward", without_a_call)
    with pytest.raises(UnsupportedArchitectureError, match=r"layers\.0\.mlp\.gate_proj takes no part"):
        local_job(tmp_path, llama, texts).attempt()


def test_a_model_that_would_stay_dense_in_large_part_ends_the_job(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "MAX_LEFT_DENSE", 0.001)
    with pytest.raises(UnsupportedArchitectureError, match="belong to no matrix that can be pruned"):
        local_job(tmp_path, llama, texts).attempt()


def test_where_the_model_does_not_fit_the_report_says_so(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "free_bytes", lambda _device: 1000)
    report = local_job(tmp_path, llama, texts).attempt().report
    assert report["certificate"]["verdict"] == "not_checked"
    assert "1000 are free" in report["certificate"]["items"][1]["reason"]


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), None), (float("-inf"), None), (1e30, "float16")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_value_that_is_not_finite_is_named_before_work(
    name: str, value: float, dtype: str | None, tmp_path: Path, texts: Path
) -> None:
    model_dir = write_tiny_model(tmp_path / "model", dtype=torch.float32)
    tensors = load_file(model_dir / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, model_dir / "model.safetensors", {"format": "pt"})
    job = local_job(tmp_path / "job", model_dir, texts, output={"dtype": dtype} if dtype else {})
    with pytest.raises(NumericalError, match=name):
        job.attempt()
    assert not job.layers


@pytest.mark.parametrize("by_blocks", [True, False], ids=["by blocks", "whole"])
@pytest.mark.parametrize(
    ("dtype", "dense", "compressed"),
    [
        ("float32", "checkpoint is broken", "Prune less"),
        ("bfloat16", "Use compute_dtype float32; if that", "Use compute_dtype float32, or prune less"),
    ],
)
def test_a_model_without_a_perplexity_is_told_what_can_be_done_about_it(
    dtype: str, dense: str, compressed: str, tmp_path: Path, texts: Path, *, by_blocks: bool
) -> None:
    model_dir = write_tiny_model(tmp_path / "model", dtype=torch.float32)
    tensors = load_file(model_dir / "model.safetensors")
    tensors["lm_head.weight"].fill_(3e38)  # a number, and no logit is one
    save_file(tensors, model_dir / "model.safetensors", {"format": "pt"})
    session = local_job(tmp_path / "job", model_dir, texts, compute_dtype=dtype).session()
    session.by_blocks = by_blocks
    with pytest.raises(NumericalError, match="the dense model's perplexity is not finite") as caught:
        baseline.run(session)
    assert dense in caught.value.hint
    with pytest.raises(NumericalError, match=r"^the perplexity is not finite") as caught:
        score_weights(session, session.weights)
    assert compressed in caught.value.hint
