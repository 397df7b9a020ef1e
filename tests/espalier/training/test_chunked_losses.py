"""Losses in chunks of tokens against float64 and against the plain form, for every family."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

from espalier.memory import training
from espalier.model.numerics import generator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.recipe.steps.retrain import Distilled
from espalier.training import losses
from espalier.training.losses import Distillation, hidden_states, language_loss
from espalier.training.recompute import recomputing
from tests.fixtures.library.tiny_models import FAMILIES, VOCABULARY, write_tiny_model

CPU = torch.device("cpu")
TOKENS = torch.randint(VOCABULARY, (2, 20), generator=generator(0, "tokens"))
CHUNK = 7
"""Tokens: the last one of 38 has three."""


KINDS = ("cross_entropy", "kl", "squarehead")
OWN_WAYS = {"llama", "opt", "gpt2", "gemma2", "mixtral"}
"""Families whose bodies and heads differ most; with the loss that holds the other two they are always tested."""
CASES = [
    pytest.param(kind, family, marks=[] if kind == "squarehead" and family in OWN_WAYS else pytest.mark.deep)
    for kind in KINDS
    for family in sorted(FAMILIES)
]


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU make its logits in small chunks, as a GPU does large ones."""
    monkeypatch.setattr(training, "CHUNK_BYTES", CHUNK * VOCABULARY * 4)
    monkeypatch.setattr(losses, "is_accelerator", lambda _: True)


def _model(folder: Path, family: str, *, seed: int = 0, tied: bool = False) -> nn.Module:
    folder = write_tiny_model(folder, family, seed=seed, tied=tied, dtype=torch.float32)
    streamed = StreamedModel(folder, compute_dtype=torch.float32, device=CPU)
    with streamed.whole(Weights(folder)) as model:
        return model


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.grad.double() for name, each in model.named_parameters() if each.grad is not None}


def _in_float64(model: nn.Module, teacher: nn.Module, kind: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and its gradients by their formulas, everything in float64."""
    model.double().zero_grad()
    teacher.double()
    with torch.no_grad(), hidden_states(teacher) as wanted:
        teacher_NV = log_softmax(teacher(input_ids=TOKENS).logits[:, :-1].flatten(0, 1), dim=-1)
    with hidden_states(model) as reached:
        student_NV = log_softmax(model(input_ids=TOKENS).logits[:, :-1].flatten(0, 1), dim=-1)
    text = -student_NV.gather(1, TOKENS[:, 1:].reshape(-1, 1)).mean()
    divergence = (teacher_NV.exp() * (teacher_NV - student_NV)).sum(dim=1).mean()
    features = [(a - b).square().mean() / b.square().mean() for a, b in zip(reached, wanted, strict=True)]
    loss = {"cross_entropy": text, "kl": divergence, "squarehead": text + divergence + torch.stack(features).mean()}
    torch.autograd.backward(loss[kind])
    return float(loss[kind].detach()), _gradients(model)


def _loss_of(kind: Distilled | str, teacher: nn.Module) -> losses.Loss:
    return language_loss if kind == "cross_entropy" else Distillation("kl" if kind == "kl" else "squarehead", teacher)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_a_loss_in_chunks_and_its_gradients_are_those_of_float64(
    kind: str, family: str, chunked: None, tmp_path: Path
) -> None:
    model, teacher = (_model(tmp_path / str(seed), family, seed=seed) for seed in (0, 1))
    model.requires_grad_(True)
    with recomputing(model) if family == "llama" else nullcontext():
        loss = _loss_of(kind, teacher)(model, TOKENS)
        torch.autograd.backward(loss)
    gradients = _gradients(model)
    expected, wanted = _in_float64(model, teacher, kind)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        scale = max(float(wanted[name].norm()), 1e-3)
        assert float((gradient - wanted[name]).norm()) < 1e-4 * scale, name
    assert all("forward" not in vars(module) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_chunks_give_the_loss_of_the_plain_form_also_without_gradients(chunked: None, tmp_path: Path) -> None:
    model = _model(tmp_path, "gemma2", tied=True)
    with torch.no_grad():
        in_chunks = language_loss(model, TOKENS)
        plain = losses.cross_entropy(losses.logits_of(model, TOKENS), TOKENS)
    assert float(in_chunks) == pytest.approx(float(plain), rel=1e-6)


def test_a_cpu_and_few_logits_keep_the_plain_form_and_its_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(tmp_path, "llama")
    with torch.no_grad():
        plain = losses.cross_entropy(losses.logits_of(model, TOKENS), TOKENS)
        monkeypatch.setattr(losses, "mean_in_chunks", None)
        assert torch.equal(language_loss(model, TOKENS), plain), "few logits"
        monkeypatch.setattr(training, "CHUNK_BYTES", 1)
        assert torch.equal(language_loss(model, TOKENS), plain), "a CPU"
        monkeypatch.setattr(losses, "is_accelerator", lambda _: True)
        with pytest.raises(TypeError):
            language_loss(model, TOKENS)
