"""Latency of prefill and decoding on this machine, and multiply-adds per token."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Final

import torch
from torch import nn

from espalier.model.numerics import synchronize
from espalier.model.streamed import StreamedModel

PROMPT_TOKENS: Final = 128
WRITTEN_TOKENS: Final = 8
REPEATS: Final = 5
SECONDS: Final = 20.0
"""After so long no further repeat begins: the first one is all that a large model on a CPU gets."""


@torch.no_grad()
def measure(*models: nn.Module, device: torch.device, longest: int) -> list[dict[str, Any]]:
    """Time a prompt and the tokens after it, greedily, batch of one; median over repeats, and their spread.

    Models take turns, so that whatever else the machine does meets them alike; the first turn only warms up.
    """
    length = max(1, min(PROMPT_TOKENS, longest - WRITTEN_TOKENS))
    prompt = torch.arange(length, device=device).view(1, -1) % 97 + 1
    began = time.monotonic()
    repeats: list[list[tuple[float, float]]] = []
    while len(repeats) < 2 or (len(repeats) <= REPEATS and time.monotonic() - began < SECONDS):
        repeats.append([_once(model, prompt, device) for model in models])
    return [
        {
            "prompt_tokens": length,
            "written_tokens": WRITTEN_TOKENS,
            "repeats": len(repeats) - 1,
            "prefill_seconds_per_token": _spread([repeat[place][0] / length for repeat in repeats[1:]]),
            "decode_seconds_per_token": _spread([repeat[place][1] / WRITTEN_TOKENS for repeat in repeats[1:]]),
        }
        for place in range(len(models))
    ]


def _once(model: nn.Module, prompt: torch.Tensor, device: torch.device) -> tuple[float, float]:
    started = _now(device)
    output = model(input_ids=prompt, use_cache=True)
    read = _now(device)
    for _ in range(WRITTEN_TOKENS):
        token = output.logits[:, -1:].argmax(dim=-1)
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    return read - started, _now(device) - read


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "least": min(values), "most": max(values)}


def macs_per_token(streamed: StreamedModel) -> int:
    """Count the multiply-adds of one token in the linear layers and the head, attention scores left out.

    Of an expert only the fraction of tokens that reach it counts.
    """
    routed_fraction, total = streamed.family.routed_fraction, 0.0
    for matrix in streamed.layout.matrices:
        total += matrix.shape[0] * matrix.shape[1] * (routed_fraction if matrix.routed else 1.0)
    head = streamed.model.get_output_embeddings()  # type: ignore[operator]
    return round(total) + int(head.weight.numel())
