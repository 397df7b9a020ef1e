"""Losses against their formulas in float64, and recomputed activations against kept ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from espalier.training.losses import (
    Distillation,
    divergence,
    feature_error,
    hidden_states,
    language_loss,
)
from espalier.training.recompute import recomputing
from tests.fixtures.library.tiny_configs import LLAMA, OPT

TOKENS = torch.arange(24).view(2, 12) % 48


def _models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    student, teacher = (AutoModelForCausalLM.from_config(LLAMA).eval() for _ in range(2))
    return student, teacher


def test_divergence_is_kl_from_the_teacher() -> None:
    student, teacher = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    p, q = (log_softmax(each.double(), dim=-1) for each in (teacher, student))
    expected = (p.exp() * (p - q)).sum(-1).mean()
    assert float(divergence(student, teacher)) == pytest.approx(float(expected), rel=1e-5)
    assert float(divergence(teacher, teacher)) == pytest.approx(0.0, abs=1e-7)


def test_the_feature_error_is_relative_to_the_teacher() -> None:
    teacher = torch.randn(2, 5, 7)
    assert float(feature_error(torch.zeros_like(teacher), teacher)) == pytest.approx(1.0)
    assert float(feature_error(teacher * 1.1, teacher)) == pytest.approx(0.01, rel=1e-4)


@torch.no_grad()
def test_a_student_equal_to_its_teacher_has_only_the_text_to_learn() -> None:
    student, _ = _models()
    text = float(language_loss(student, TOKENS))
    assert float(Distillation("kl", student)(student, TOKENS)) == pytest.approx(0.0, abs=1e-6)
    assert float(Distillation("squarehead", student)(student, TOKENS)) == pytest.approx(text, rel=1e-6)


def test_squarehead_is_text_and_predictions_and_hidden_states() -> None:
    student, teacher = _models()
    with torch.no_grad(), hidden_states(student) as ours:
        logits = student(input_ids=TOKENS).logits[:, :-1]
    with torch.no_grad(), hidden_states(teacher) as theirs:
        wanted = teacher(input_ids=TOKENS).logits[:, :-1]
    assert len(ours) == len(theirs) == LLAMA.num_hidden_layers
    features = [float(feature_error(a, b)) for a, b in zip(ours, theirs, strict=True)]
    expected = (
        float(language_loss(student, TOKENS).detach())
        + float(divergence(logits, wanted))
        + sum(features) / len(features)
    )
    loss = Distillation("squarehead", teacher)(student, TOKENS)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    torch.autograd.backward(loss)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(not block._forward_hooks for block in student.modules())


@pytest.mark.parametrize("config", [LLAMA, OPT], ids=["llama", "opt"])
@pytest.mark.parametrize("kind", ["cross_entropy", "squarehead"])
def test_recomputed_activations_give_the_same_bits_and_keep_less(config: object, kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    teacher = AutoModelForCausalLM.from_config(config).eval()
    loss = language_loss if kind == "cross_entropy" else Distillation("squarehead", teacher)
    measured = []
    for again in (False, True):
        model.zero_grad()
        saved: list[int] = []

        def count(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            if again:
                with recomputing(model):
                    torch.autograd.backward(loss(model, TOKENS))
            else:
                torch.autograd.backward(loss(model, TOKENS))
        measured.append((sum(saved), [parameter.grad.clone() for parameter in model.parameters()]))
    (kept, gradients), (kept_again, gradients_again) = measured
    assert kept_again < kept / 2
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_again, strict=True))
    assert all("forward" not in vars(module) for module in model.modules())
