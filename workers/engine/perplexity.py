"""Perplexity: exp of the mean cross entropy over all predicted tokens of non-overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workers.engine.errors import NumericalError

LOGITS_BYTES = 256 * 2**20
"""Most memory for the logits of one batch: with large vocabularies they outweigh the model's activations."""


@torch.no_grad()
def perplexity(
    model: nn.Module, windows_NT: torch.Tensor, *, device: torch.device, tick: Callable[[int], None] = lambda _: None
) -> float:
    """Score `model` on windows of tokens; `tick` hears how many windows are done."""
    assert not model.training
    length = windows_NT.shape[1]
    total, done = 0.0, 0
    size = 1  # until the width of the vocabulary is known
    while done < len(windows_NT):
        batch_BT = windows_NT[done : done + size].to(device)
        logits_BTV = model(input_ids=batch_BT, use_cache=False).logits[:, :-1]
        total += _summed_loss(logits_BTV, batch_BT[:, 1:])
        done += len(batch_BT)
        size = max(1, min(8, LOGITS_BYTES // (4 * length * logits_BTV.shape[-1])))
        tick(done)
    mean = total / (len(windows_NT) * (length - 1))
    if not math.isfinite(mean):
        raise NumericalError("the perplexity is not finite", hint="Try compute_dtype float32 or a lower sparsity.")
    return math.exp(min(mean, 700.0))  # exp(710) leaves float64


def _summed_loss(logits_BTV: torch.Tensor, target_BT: torch.Tensor) -> float:
    """Cross entropy in float32, window by window, summed in float64."""
    return sum(
        float(cross_entropy(logits_TV.float(), target_T, reduction="none").double().sum())
        for logits_TV, target_T in zip(logits_BTV, target_BT, strict=True)
    )
