"""Divergence of a model's predictions from the dense model's, token by token; no logits are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import log_softmax

from espalier.errors import NumericalError
from espalier.memory.scoring import scoring_batch_size
from espalier.model.numerics import hint_if_not_finite


@dataclass(frozen=True)
class Divergence:
    """Means over all predicted tokens."""

    kl: float
    """KL(dense || model) in nats."""
    top1_agreement: float
    """Share of tokens that both models think the likeliest; of equal logits the first counts."""


@torch.no_grad()
def divergence(
    dense: nn.Module,
    model: nn.Module,
    windows_NT: torch.Tensor,
    *,
    device: torch.device,
    tick: Callable[[int], None] = lambda _: None,
) -> Divergence:
    """Compare two models on windows of tokens; `tick` hears how many windows are done."""
    assert not dense.training
    assert not model.training
    length = windows_NT.shape[1]
    kl, agreed, done = 0.0, 0, 0
    size = 1  # until the width of the vocabulary is known
    while done < len(windows_NT):
        batch_BT = windows_NT[done : done + size].to(device)
        pair = [each(input_ids=batch_BT, use_cache=False).logits[:, :-1] for each in (dense, model)]
        for dense_TV, model_TV in zip(*pair, strict=True):
            kl += _summed_kl(dense_TV, model_TV)
            agreed += int((dense_TV.argmax(dim=-1) == model_TV.argmax(dim=-1)).sum())
        done += len(batch_BT)
        size = scoring_batch_size(length, 2 * pair[0].shape[-1])  # of two models
        tick(done)
    count = len(windows_NT) * (length - 1)
    if not kl < float("inf"):
        raise NumericalError("the divergence is not finite", hint=hint_if_not_finite(pair[1].dtype))
    return Divergence(kl / count, agreed / count)


def _summed_kl(dense_TV: torch.Tensor, model_TV: torch.Tensor) -> float:
    """KL in float32, token by token, summed in float64."""
    log_p, log_q = log_softmax(dense_TV.float(), dim=-1), log_softmax(model_TV.float(), dim=-1)
    return float((log_p.exp() * (log_p - log_q)).sum(dim=-1).double().sum())
