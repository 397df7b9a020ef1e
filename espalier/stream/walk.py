"""Hidden states on their way through the blocks: kept outside the device, moved to it batch by batch.

What is in memory at one moment: the embeddings (only while the stream starts), one block in the compute dtype, one
batch of activations, the statistics of the block's inputs, and the float32 work on one matrix. The weights come from
the safetensors files, the hidden states lie in memory or, under a memory limit, in a file.

Computed by `espalier.memory` (whose constants are measured on a CPU), bfloat16 forwards on the device, 128 x 2048
calibration tokens, Llama shapes; G: the Gram matrices of one block in float32, work: on the largest matrix, with the
errors of its outputs, or what a solver makes of the widest Gram matrix:

| model | block | G | work: wanda / solvers | device peak: wanda / solvers | hidden states on the host |
|---|---|---|---|---|---|
| 8B (d 4096, f 14336) | 0.44 GB | 1.0 GB | 3.1 / 6.8 GB | 4.2 / 8.9 GB | 2.1 GB |
| 30B (d 6656, f 17920) | 1.1 GB | 1.8 GB | 5.4 / 11.5 GB | 8.1 / 16.0 GB | 3.5 GB |
| 70B (d 8192, f 28672) | 1.7 GB | 4.1 GB | 10.0 / 27.2 GB | 14.3 / 35.6 GB | 4.3 GB |

All of them fit one card of 80 GB or 141 GB with room; the host needs its hidden states, or next to nothing when they
are spilled, and one tensor at a time. The whole model, which perplexity takes by default, is 16, 60 and 140 GB: 30B is
scored whole on either card, 70B on neither beside its activations, and block by block under a limit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from espalier.memory.constants import TOKENS_PER_BATCH
from espalier.model.streamed import BlockCall, StreamedModel
from espalier.model.weights import Weights
from espalier.stream.spill import States


def windows_per_batch(length: int) -> int:
    """How many windows of so many tokens go through a block together."""
    return max(1, TOKENS_PER_BATCH // length)


@dataclass(frozen=True)
class Batch:
    """A few windows: what enters the next block, and what every block is called with."""

    hidden_BTD: torch.Tensor
    """On the CPU."""
    calls: list[BlockCall]


class Stream:
    """The hidden states of a set of windows at the entrance of one block."""

    def __init__(
        self,
        streamed: StreamedModel,
        windows_NT: torch.Tensor,
        weights: Weights,
        *,
        sizes: Sequence[int] | None = None,
        spill: Path | None = None,
    ) -> None:
        """Start at block 0. Equal windows and sizes of batches give equal bits, so a resumed walk can start over here.

        `spill`: a folder for the hidden states; None keeps them in memory.
        """
        even = windows_per_batch(windows_NT.shape[1])
        batches = list(torch.split(windows_NT, even if sizes is None else list(sizes)))
        self.streamed = streamed
        self.index = 0
        """The block that comes next."""
        self._spill = spill
        self._sizes = [len(batch) for batch in batches]
        self._calls: dict[int, list[BlockCall]] = {}
        self._states = States(spill)
        for hidden_BTD, calls in streamed.prelude(batches, weights):
            self._states.put(hidden_BTD)
            # Windows are equally long, so that the arguments depend on the size of the batch alone.
            self._calls.setdefault(len(hidden_BTD), calls)

    def fork(self) -> Stream:
        """A second stream from here."""
        other = copy.copy(self)
        other._states = self._states.fork()
        return other

    @property
    def batches(self) -> Iterator[Batch]:
        """What enters the next block, batch by batch."""
        for number, size in enumerate(self._sizes):
            yield Batch(self._states.get(number), self._calls[size])

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
        following = States(self._spill)
        for number, output_BTD in enumerate(self.outputs(block)):
            following.put(output_BTD)
            self._states.drop(number)
        self._states = following
        self.index += 1
