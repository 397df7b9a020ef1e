"""Memory on the pretend card: what is decided by what is free, and jobs on models that are larger than the card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, LlamaConfig

from espalier.errors import InsufficientMemoryError
from espalier.memory import training
from espalier.memory.training import CHUNK_BYTES, CHUNK_COPIES
from espalier.model import numerics
from espalier.recipe.steps.retrain import Distilled
from espalier.training.losses import Distillation, language_loss
from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model
from tests.standin.backend import watching
from tests.standin.card import CARD, Card
from tests.standin.runs import Run, run_on_card
from tests.standin.tensors import DEVICE

GIGABYTE = 10**9
RATIO = 8
"""Bytes of a model in the compute dtype, of those of the card: a model of 640 GB on one of 80 GB."""


@pytest.fixture
def card() -> Iterator[Card]:
    with watching() as card:
        yield card


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


def _run(folder: Path, texts: Path, *, blocks: int, width: int, **fields: Any) -> tuple[Run, int]:
    """Run a job on a model of eight times the card; its bytes on the card."""
    model = write_tiny_model(folder / "model", num_hidden_layers=blocks, hidden_size=width, intermediate_size=width)
    capacity = sum(file.stat().st_size for file in model.glob("*.safetensors")) // RATIO
    calibration = {
        "dataset": {"kind": "local", "path": str(texts / "train.txt")},
        "samples": 2,
        "sequence_length": 16,
    }
    with CARD.bounded(CARD.live + capacity):
        return run_on_card(folder / "job", model, texts, calibration=calibration, **fields), capacity


def _assert_walked(run: Run, capacity: int) -> None:
    forward = next(item for item in run.report["certificate"]["items"] if item["name"] == "forward")
    assert forward["verdict"] == "not_checked", "that would hold the whole model"
    assert run.report["compressed"]["perplexity"]["text"] > 0
    assert run.report["dense"]["perplexity"]["text"] > 0
    assert run.report["sparsity"]["achieved"] == pytest.approx(0.5, abs=0.01)
    for phase, books in run.phases.items():
        assert books.peak - CARD.live <= _usable(capacity), phase


def _usable(capacity: int) -> int:
    """What a job plans with."""
    return capacity * 9 // 10


def test_a_model_of_eight_times_the_card_is_pruned_and_scored_within_it(tmp_path: Path, texts: Path) -> None:
    scored = {"dataset": {"kind": "local", "path": str(texts / "valid.txt")}, "sequence_length": 16, "max_windows": 1}
    evaluate = {"latency": False, "perplexity": [{"name": "text", **scored}]}
    _assert_walked(*_run(tmp_path, texts, blocks=52, width=192, evaluate=evaluate))


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_model_of_eight_times_the_card_is_reconstructed_within_it(tmp_path: Path, texts: Path) -> None:
    reconstruct = {"window": "auto", "epochs": 1, "learning_rate": 0.01}
    prune = {"method": "magnitude", "sparsity": 0.5, "update": {"kind": "sparsegpt"}}
    evaluate = {
        "latency": True,
        "perplexity": [{"name": "text", "sequence_length": 32, "max_windows": 6}],
        "after_each_phase": True,
    }
    run, capacity = _run(tmp_path, texts, blocks=160, width=64, prune=prune, reconstruct=reconstruct, evaluate=evaluate)
    _assert_walked(run, capacity)
    assert "latency_not_measured" in {warning["code"] for warning in run.report["warnings"]}


def test_a_retraining_that_cannot_fit_is_refused_before_anything_is_measured(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(InsufficientMemoryError, match="retraining") as refusal:
        _run(tmp_path, texts, blocks=52, width=192, retrain={"trainable": ["norms"], "steps": 1})
    assert refusal.value.class_ == "gpu_oom"
    assert "batch_size" in refusal.value.hint


@pytest.mark.parametrize(
    "kind",
    [pytest.param("cross_entropy", marks=pytest.mark.deep), pytest.param("kl", marks=pytest.mark.deep), "squarehead"],
)
def test_the_logits_of_a_large_vocabulary_stay_below_a_gigabyte(kind: str, card: Card) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=256_000, **sizes, num_key_value_heads=1, tie_word_embeddings=False)
    models = []
    for _ in range(1 + (kind != "cross_entropy")):
        with torch.device("cpu"):
            models.append(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().to(DEVICE))
    model, *teachers = models
    model.requires_grad_(False).model.norm.weight.requires_grad_(True)
    tokens_BT = torch.arange(200)[None]
    cast = torch.autocast(DEVICE.type, dtype=torch.bfloat16)
    distilled: Distilled = "kl" if kind == "kl" else "squarehead"
    loss = language_loss if kind == "cross_entropy" else Distillation(distilled, *teachers, autocast=cast)
    before = card.live
    with card.account() as books, cast, sdpa_kernel(SDPBackend.MATH):
        value = loss(model, tokens_BT)
        with torch.autocast(DEVICE.type, enabled=False):
            torch.autograd.backward(value)
    print(f"{kind}: {(books.peak - before) / CHUNK_BYTES:.2f} of {CHUNK_COPIES} copies of a chunk")  # noqa: T201
    assert books.peak - before < GIGABYTE
    assert books.peak - before <= CHUNK_COPIES * CHUNK_BYTES, "what the estimate of memory counts"
    assert model.model.norm.weight.grad is not None
    assert float(value.detach()) > 0


@pytest.mark.deep
def test_a_retraining_in_chunks_and_parts_ends_where_the_plain_one_does(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "model")
    retrain = {"steps": 3, "batch_size": 2, "rank": 2, "sequence_length": 32, "learning_rate": 0.01, "loss": "kl"}
    losses = []
    for name, chunk in (("plain", training.CHUNK_BYTES), ("chunked", 7 * VOCABULARY * 4)):
        monkeypatch.setattr(training, "CHUNK_BYTES", chunk)
        run = run_on_card(tmp_path / name, model, texts, retrain=retrain, compute_dtype="float32")
        losses.append(run.report["protocol"]["retraining"]["validation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.deep
def test_an_attempt_after_one_that_ran_out_takes_less_of_the_card(tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", num_hidden_layers=4, hidden_size=64, intermediate_size=64)
    retrain = {"steps": 2, "batch_size": 8, "rank": 2, "sequence_length": 32, "learning_rate": 0.01}
    first, second = (
        run_on_card(tmp_path / name, model, texts, ran_out=ran_out, retrain=retrain)
        for name, ran_out in (("first", None), ("second", {"retraining": 2, "evaluating": 1}))
    )
    (text,) = [item["text"] for item in second.report["warnings"] if item["code"] == "smaller_attempt"]
    assert "retraining takes 2 windows of a batch at once" in text
    assert "perplexity is measured block by block" in text
    for phase, share in (("retraining", 0.6), ("evaluating", 0.8)):
        assert second.phases[phase].peak - CARD.live < share * (first.phases[phase].peak - CARD.live), phase
    read = [run.report["protocol"]["retraining"]["tokens_read"] for run in (first, second)]
    assert read[0] == read[1]


def test_free_memory_counts_what_the_allocator_keeps(card: Card) -> None:
    with card.bounded(card.live + 10_000):
        kept = torch.zeros(1000, device=DEVICE)
        assert numerics.free_bytes(DEVICE) == 6000
        del kept
        driver = torch.get_device_module(DEVICE)
        assert driver.mem_get_info(DEVICE)[0] == 6000, "the allocator keeps it"
        assert numerics.free_bytes(DEVICE) == 10_000
        numerics.release_device_memory(DEVICE)
        assert driver.mem_get_info(DEVICE)[0] == 10_000


def test_a_limit_is_torchs_own_and_goes_with_the_job(card: Card) -> None:
    with card.bounded(card.live + 10_000), numerics.limiting_memory(DEVICE, card.live + 5000):
        assert numerics.free_bytes(DEVICE) == pytest.approx(5000, abs=1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(2000, device=DEVICE)
        torch.zeros(1000, device=DEVICE)
    assert card.fraction == 1.0
    with numerics.limiting_memory(torch.device("cpu"), 1):
        assert card.fraction == 1.0
