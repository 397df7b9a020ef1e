"""Perplexity against its definition."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from espalier.errors import NumericalError
from espalier.evaluate.perplexity import perplexity
from espalier.model.numerics import generator
from tests.fixtures.library.tiny_models import VOCABULARY, write_tiny_model

CPU = torch.device("cpu")


@torch.no_grad()
def test_it_is_exp_of_the_mean_loss_over_predicted_tokens(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path), dtype=torch.float32).eval()
    windows_NT = torch.randint(VOCABULARY, (11, 24), generator=generator(0))
    heard: list[int] = []
    losses = []
    for window_T in windows_NT:
        log_p_TV = model(window_T[None]).logits[0, :-1].double().log_softmax(dim=-1)
        losses += [-float(log_p_V[token]) for log_p_V, token in zip(log_p_TV, window_T[1:], strict=True)]
    measured = perplexity(model, windows_NT, device=CPU, tick=heard.append)
    assert measured == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    assert len(losses) == 11 * 23
    assert heard[-1] == 11


def test_a_model_that_speaks_nan_is_a_numerical_error() -> None:
    class Broken(nn.Module):
        def forward(self, input_ids: torch.Tensor, *, use_cache: bool) -> CausalLMOutput:
            return CausalLMOutput(logits=torch.full((*input_ids.shape, 5), float("nan")))

    with pytest.raises(NumericalError):
        perplexity(Broken().eval(), torch.zeros(1, 4, dtype=torch.int64), device=CPU)
