"""KL and agreement with the dense model, against sums in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from espalier.errors import NumericalError
from espalier.evaluate.divergence import divergence

WINDOWS = torch.arange(60).view(10, 6) % 7


class Table(nn.Module):
    """A model whose logits depend on the token alone."""

    def __init__(self, logits_VV: torch.Tensor) -> None:
        super().__init__()
        self.logits_VV = logits_VV

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits_VV[input_ids])


def _table(seed: int) -> Table:
    return Table(torch.randn((7, 7), generator=torch.Generator().manual_seed(seed))).eval()


def test_the_numbers_are_those_of_the_definition() -> None:
    dense, model = _table(0), _table(1)
    kl = agreed = 0.0
    for token in WINDOWS[:, :-1].flatten().tolist():
        p, q = (each.logits_VV[token].double().softmax(dim=0) for each in (dense, model))
        kl += float(sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
        agreed += float(p.argmax() == q.argmax())
    measured = divergence(dense, model, WINDOWS, device=torch.device("cpu"))
    assert measured.kl == pytest.approx(kl / 50, rel=1e-6)
    assert measured.top1_agreement == agreed / 50
    assert 0 < measured.top1_agreement < 1


def test_a_model_does_not_differ_from_itself() -> None:
    seen: list[int] = []
    measured = divergence(_table(0), _table(0), WINDOWS, device=torch.device("cpu"), tick=seen.append)
    assert (measured.kl, measured.top1_agreement) == (0.0, 1.0)
    assert seen == [1, 9, 10]  # one window, until the width of the vocabulary is known


def test_logits_that_are_no_numbers_are_an_error_of_its_own_class() -> None:
    with pytest.raises(NumericalError, match="divergence"):
        divergence(_table(0), Table(torch.full((7, 7), torch.nan)).eval(), WINDOWS, device=torch.device("cpu"))
