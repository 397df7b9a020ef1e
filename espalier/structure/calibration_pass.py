"""Measurements for criteria of blocks: a pass of the calibration text, and the model with some blocks skipped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from espalier.methods.structured import CalibrationPass
from espalier.model.layout import find_stack
from espalier.model.numerics import CPU
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.stream.hidden_states import HiddenStates


def run_calibration_pass(
    streamed: StreamedModel,
    windows_NT: torch.Tensor,
    weights: Weights,
    *,
    states_in: Path | torch.device = CPU,
    tick: Callable[[int], None] = lambda _: None,
) -> CalibrationPass:
    """Go through all blocks once."""
    stream = HiddenStates(streamed, windows_NT, weights, states_in=states_in)
    influence: list[float] = []
    last: list[torch.Tensor] = [_last(stream)]
    for block in streamed.layout.blocks:
        before = stream.fork()
        with streamed.block(block.index, weights) as module:
            stream.advance(module)
        similar = [
            torch.cosine_similarity(old.hidden_BTD.float(), new.hidden_BTD.float(), dim=-1).double().flatten()
            for old, new in zip(before.batches, stream.batches, strict=True)
        ]
        influence.append(1 - float(torch.cat(similar).mean()))
        last.append(_last(stream))
        tick(block.index + 1)
    return CalibrationPass(torch.tensor(influence, dtype=torch.float64), torch.stack(last))


def _last(stream: HiddenStates) -> torch.Tensor:
    return torch.cat([batch.hidden_BTD[:, -1].float() for batch in stream.batches])


def consecutive_ranges(blocks: Sequence[int]) -> list[tuple[int, int]]:
    """Group consecutive blocks as (first, one past the last)."""
    ranges: list[tuple[int, int]] = []
    for index in sorted(blocks):
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


@contextmanager
def skipping_blocks(model: nn.Module, blocks: Collection[int], *, returns_tuple: bool) -> Iterator[None]:
    """Let hidden states pass some blocks of a whole model as if they were not there."""
    stack = find_stack(model)[1]

    def pass_on(hidden_states: torch.Tensor, *_: object, **__: object) -> object:
        return (hidden_states, None) if returns_tuple else hidden_states

    try:
        for index in blocks:
            stack[index].forward = pass_on
        yield
    finally:
        for index in blocks:
            stack[index].__dict__.pop("forward", None)
