"""Perplexity: exp of the mean cross entropy over all predicted tokens of non-overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from espalier.errors import NumericalError
from espalier.memory.scoring import scoring_batch_size
from espalier.model.numerics import hint_if_not_finite
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.hidden_states import HiddenStates
from espalier.stream.read_ahead import blocks_in_turn


def perplexity(
    model: nn.Module,
    windows_NT: torch.Tensor,
    *,
    device: torch.device,
    dense: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> float:
    """Score `model` on windows of tokens; `tick` hears how many windows are done. `dense`: it is not compressed yet."""
    losses_N = window_losses(model, windows_NT, device=device, tick=tick)
    return _of_losses(losses_N, next((each.dtype for each in model.parameters()), torch.float32), dense=dense)


def perplexity_by_blocks(
    streamed: StreamedModel,
    windows_NT: torch.Tensor,
    weights: Weights,
    *,
    states_in: Path | torch.device,
    dense: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> float:
    """Score a model of which one block at a time is in memory: the same batches, and so the same number."""
    losses_N = window_losses_by_blocks(streamed, windows_NT, weights, states_in=states_in, tick=tick)
    return _of_losses(losses_N, streamed.compute_dtype, dense=dense)


@torch.no_grad()
def window_losses_by_blocks(
    streamed: StreamedModel,
    windows_NT: torch.Tensor,
    weights: Weights,
    *,
    states_in: Path | torch.device,
    tick: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Return the mean cross entropy of every window, float64 (N,), with one block at a time in memory."""
    count, length = windows_NT.shape
    size = scoring_batch_size(length, streamed.head_width)
    sizes = [1, *[size] * ((count - 1) // size)]
    sizes += [count - sum(sizes)] if count > sum(sizes) else []
    stream = HiddenStates(streamed, windows_NT, weights, batches=sizes, states_in=states_in)
    blocks = streamed.layout.blocks
    for index, module in enumerate(blocks_in_turn(streamed, weights)):
        stream.advance(module)
        tick(count * (index + 1) // (len(blocks) + 1))
    batches = list(torch.split(windows_NT, sizes))
    heads = streamed.logits(zip(batches, (batch.hidden_BTD for batch in stream.batches), strict=True), weights)
    losses = [
        _mean_loss(logits_TV, target_T.to(logits_TV.device))
        for tokens_BT, logits_BTV in zip(batches, heads, strict=True)
        for logits_TV, target_T in zip(logits_BTV[:, :-1], tokens_BT[:, 1:], strict=True)
    ]
    tick(count)
    return torch.tensor(losses, dtype=torch.float64)


def _of_losses(losses_N: torch.Tensor, dtype: torch.dtype, *, dense: bool) -> float:
    mean = float(losses_N.mean())
    if not math.isfinite(mean):
        whose = "the dense model's" if dense else "the"
        raise NumericalError(f"{whose} perplexity is not finite", hint=hint_if_not_finite(dtype, dense=dense))
    return math.exp(min(mean, 700.0))  # exp(710) leaves float64


@torch.no_grad()
def window_losses(
    model: nn.Module, windows_NT: torch.Tensor, *, device: torch.device, tick: Callable[[int], None] = lambda _: None
) -> torch.Tensor:
    """Return the mean cross entropy of every window, float64 (N,)."""
    assert not model.training
    losses: list[float] = []
    size = 1  # until the width of the vocabulary is known
    while len(losses) < len(windows_NT):
        batch_BT = windows_NT[len(losses) : len(losses) + size].to(device)
        logits_BTV = model(input_ids=batch_BT, use_cache=False).logits[:, :-1]
        losses += [_mean_loss(*pair) for pair in zip(logits_BTV, batch_BT[:, 1:], strict=True)]
        size = scoring_batch_size(windows_NT.shape[1], logits_BTV.shape[-1])
        tick(len(losses))
    return torch.tensor(losses, dtype=torch.float64)


def _mean_loss(logits_TV: torch.Tensor, target_T: torch.Tensor) -> float:
    """Cross entropy in float32, averaged in float64."""
    return float(cross_entropy(logits_TV.float(), target_T, reduction="none").double().mean())
