"""Hidden states on their way through the blocks: kept on the CPU, moved to the device batch by batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from workers.engine.model import BlockCall, StreamedModel
from workers.engine.weights import Weights

TOKENS_PER_BATCH = 2048
"""Large enough to keep the matrix products busy, small enough for the activations of one block."""


@dataclass
class Batch:
    """A few windows: what enters the next block, and what every block is called with."""

    hidden_BTD: torch.Tensor
    """On the CPU."""
    calls: list[BlockCall]


class Stream:
    """The hidden states of a set of windows at the entrance of one block."""

    def __init__(
        self, streamed: StreamedModel, windows_NT: torch.Tensor, weights: Weights, *, batch_size: int | None = None
    ) -> None:
        """Start at block 0. Equal windows and batch sizes give equal bits, so a resumed walk can start over here."""
        size = batch_size or max(1, TOKENS_PER_BATCH // windows_NT.shape[1])
        self.streamed = streamed
        self.index = 0
        """The block that comes next."""
        self.batches = [
            Batch(hidden.to("cpu"), calls)
            for hidden, calls in streamed.prelude(list(torch.split(windows_NT, size)), weights)
        ]

    def fork(self) -> Stream:
        """A second stream from here."""
        other = copy.copy(self)
        other.batches = [replace(batch) for batch in self.batches]
        return other

    def outputs(self, block: nn.Module) -> Iterator[torch.Tensor]:
        """Run the next block over every batch and yield what comes out, on the device."""
        with torch.no_grad():
            for batch in self.batches:
                yield self.output(block, batch)

    def output(self, block: nn.Module, batch: Batch) -> torch.Tensor:
        """Run the next block over one batch."""
        hidden = batch.hidden_BTD.to(self.streamed.device)
        return self.streamed.forward(block, hidden, batch.calls[self.index])

    def advance(self, block: nn.Module) -> None:
        """Replace the hidden states by what the next block makes of them, and move on to the one after it."""
        for batch, output_BTD in zip(self.batches, self.outputs(block), strict=True):
            batch.hidden_BTD = output_BTD.to("cpu")
        self.index += 1
