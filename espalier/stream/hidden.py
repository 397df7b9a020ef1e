"""The hidden states of all windows at the entrance of one block: on the CPU, moved to the device batch by batch."""

from __future__ import annotations

import copy

import torch
from torch import nn

from espalier.model.halves import Run
from espalier.model.streamed import BlockCall, StreamedModel
from espalier.model.weights import Weights


class Hidden:
    """What enters the next block, for every window; with `to` it goes on through whole blocks."""

    def __init__(self, streamed: StreamedModel, windows_NT: torch.Tensor, weights: Weights, *, batch_size: int) -> None:
        """Start at block 0, behind the embeddings that `weights` hold."""
        self.streamed = streamed
        self.batch_size = batch_size
        self.index = 0
        """The block that comes next."""
        self._windows_NT = windows_NT
        self._outer = weights
        self._calls: dict[int, list[BlockCall]] = {}
        states = []
        for entering, calls in streamed.prelude(list(torch.split(windows_NT, batch_size)), weights):
            states.append(entering.cpu())
            self._calls[len(entering)] = calls
        self.states = torch.cat(states)
        """(N, T, D), on the CPU."""

    def fork(self) -> Hidden:
        """A second walk from here; the two share what they can."""
        return copy.copy(self)

    def placed(self, index: int, states: torch.Tensor) -> Hidden:
        """The same walk with other states, at the entrance of a block."""
        there = copy.copy(self)
        there.index, there.states = index, states
        return there

    def run(self, block: nn.Module, index: int) -> Run:
        """Bind a block to its arguments, for batches of any size."""

        def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
            return self.streamed.forward(block, hidden_BTD, self.calls_for(len(hidden_BTD))[index])

        return run

    @torch.no_grad()
    def through(self, run: Run, states: torch.Tensor) -> torch.Tensor:
        """Send windows through something, batch by batch."""
        batches = torch.split(states, self.batch_size)
        return torch.cat([run(batch.to(self.streamed.device)).cpu() for batch in batches])

    def past(self, states: torch.Tensor, weights: Weights, *, first: int, last: int) -> torch.Tensor:
        """What states at the entrance of block `first` become behind block `last`; one block at a time is real."""
        for index in range(first, last + 1):
            with self.streamed.block(index, weights) as block:
                states = self.through(self.run(block, index), states)
        return states

    def to(self, index: int, weights: Weights) -> None:
        """Go on to the entrance of a block; equal weights give equal bits, so that a resumed walk can start over."""
        if index > self.index:
            self.states = self.past(self.states, weights, first=self.index, last=index - 1)
            self.index = index

    def calls_for(self, size: int) -> list[BlockCall]:
        """How each block is called with a batch of a size."""
        # Windows are equally long, so that the arguments depend on the size of the batch alone.
        if size not in self._calls:
            ((_, self._calls[size]),) = self.streamed.prelude([self._windows_NT[:size]], self._outer)
        return self._calls[size]
