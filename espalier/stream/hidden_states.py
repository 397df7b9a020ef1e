"""Hidden states streamed through the blocks: on the device while they fit there, else moved to it batch by batch.

Pruning, reconstruction, structure and scoring block by block read the same stream. What is in memory at one moment: the
embeddings (only while the stream starts), one block in the compute dtype, one batch of activations, the statistics of
the block's inputs, and the float32 work on one matrix. The weights come from the safetensors files; the hidden states
lie on the device, in the host's memory or, under a limit, in a mapped file. The bits are the same either way.

Computed by `espalier.memory` (whose constants are measured on a CPU), bfloat16 forwards on the device, 128 x 2048
calibration tokens, Llama shapes; G: the Gram matrices of one block in float32, work: on the largest matrix, with the
errors of its outputs, or what a solver makes of the widest Gram matrix:

| model | block | G | work: wanda / solvers | device peak: wanda / solvers | and the hidden states |
|---|---|---|---|---|---|
| 8B (d 4096, f 14336) | 0.44 GB | 1.0 GB | 3.1 / 6.8 GB | 4.2 / 8.9 GB | 2.1 GB |
| 30B (d 6656, f 17920) | 1.1 GB | 1.8 GB | 5.4 / 11.5 GB | 8.1 / 16.0 GB | 3.5 GB |
| 70B (d 8192, f 28672) | 1.7 GB | 4.1 GB | 10.0 / 27.2 GB | 14.3 / 35.6 GB | 4.3 GB |

All of them fit one card of 80 GB or 141 GB with room, their hidden states too; the host needs one tensor at a time, and
the hidden states where the device does not hold them, or next to nothing when they are in a file. The whole model,
which perplexity takes by default, is 16, 60 and 140 GB: 30B is scored whole on either card, 70B on neither beside its
activations, and block by block.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import nn

from espalier.distributed.group import RankGroup
from espalier.distributed.shards import Shards
from espalier.memory.constants import TOKENS_PER_BATCH
from espalier.model.halves import Run
from espalier.model.numerics import CPU
from espalier.model.streamed import BlockCall, StreamedModel
from espalier.model.weights import Weights
from espalier.stream.crossing import crossed

Part = TypeVar("Part")


def windows_per_batch(length: int) -> int:
    """Return how many windows of so many tokens go through a block together."""
    return max(1, TOKENS_PER_BATCH // length)


@dataclass(frozen=True)
class Batch:
    """A few windows: what enters the next block, and what every block is called with."""

    hidden_BTD: torch.Tensor
    """Where the states of the stream lie."""
    calls: list[BlockCall]


class HiddenStates:
    """The hidden states at the entrance of the next block, for every window, (N, T, D)."""

    def __init__(
        self,
        streamed: StreamedModel,
        windows_NT: torch.Tensor,
        weights: Weights,
        *,
        batches: int | Sequence[int] | None = None,
        states_in: Path | torch.device = CPU,
        shards: Shards | None = None,
        group: RankGroup | None = None,
    ) -> None:
        """Start at block 0, behind the embeddings that `weights` hold.

        Equal windows, batches and weights give equal bits, so that a resumed stream can start over here. `batches`: the
        size of all batches or of each; None takes what `windows_per_batch` says. `states_in`: the memory of a
        device, or a folder for files. `shards`: of all windows; the stream holds those of this rank, and no batch
        reaches from one shard into the next. `group`: ranks that share the work on the batches, and hold all windows.
        """
        self.streamed = streamed
        self.index = 0
        """The block that comes next."""
        self._windows_NT = windows_NT
        self._embeddings = weights
        self.shards = shards
        """Those of the windows, where sums over them keep an order."""
        self._sizes = windows_per_batch(windows_NT.shape[1]) if batches is None else batches
        if shards is not None:
            self._sizes = shards.own_batches(windows_per_batch(windows_NT.shape[1]))
            windows_NT = shards.own(windows_NT)
        self._states_in = states_in
        self._group = group or RankGroup.alone()
        self._calls: dict[int, list[BlockCall]] = {}
        self._sharing: WeakSet[HiddenStates] = WeakSet([self])
        """The streams whose states are this one's tensor: who is alone may write into it."""

        def enter() -> Iterator[torch.Tensor]:
            for hidden_BTD, calls in streamed.prelude(self._own_of(list(self._cut(windows_NT))), weights):
                # Windows are equally long, so that the arguments depend on the size of the batch alone.
                self._calls.setdefault(len(hidden_BTD), calls)
                yield hidden_BTD

        self.states = self._gather(enter(), self._sizes_of(windows_NT)) if len(windows_NT) else self._no_states()

    def _no_states(self) -> torch.Tensor:
        """Return the states of no window, for a rank that has none; it finds out how blocks are called all the same."""
        ((hidden_BTD, self._calls[1]),) = self.streamed.prelude([self._windows_NT[:1]], self._embeddings)
        return hidden_BTD[:0].to(CPU)

    def fork(self) -> HiddenStates:
        """Return a second stream from here."""
        other = copy.copy(self)
        self._sharing.add(other)
        return other

    def at_block(self, index: int, states: torch.Tensor) -> HiddenStates:
        """Return the same stream with other states, at the entrance of a block."""
        other = copy.copy(self)
        other.index, other.states, other._sharing = index, states, WeakSet()
        return other

    @property
    def batches(self) -> Iterator[Batch]:
        """The inputs of the next block, batch by batch."""
        for hidden_BTD in self._cut(self.states):
            yield Batch(hidden_BTD, self.calls_for(len(hidden_BTD)))

    def outputs(self, block: nn.Module) -> Iterator[torch.Tensor]:
        """Run the next block over every batch and yield what comes out, on the device."""
        with torch.no_grad():
            for hidden_BTD in crossed(self._cut(self.states), self.streamed.device):
                yield self.output(block, Batch(hidden_BTD, self.calls_for(len(hidden_BTD))))

    def output(self, block: nn.Module, batch: Batch) -> torch.Tensor:
        """Run the next block over one batch."""
        hidden_BTD = batch.hidden_BTD.to(self.streamed.device)
        return self.streamed.forward(block, hidden_BTD, batch.calls[self.index])

    def advance(self, block: nn.Module) -> None:
        """Replace the hidden states by what the next block makes of them, and move on to the one after it."""
        alone = len(self._sharing) == 1
        outputs = (self.output(block, batch) for batch in self._own_of(list(self.batches)))
        self.states = self._gather(outputs, self._sizes_of(self.states), into=self.states if alone else None)
        if not alone:
            self._sharing.discard(self)
            self._sharing = WeakSet([self])
        self.index += 1

    def advance_to(self, index: int, weights: Weights) -> None:
        """Go on to the entrance of a block; who holds the states from before keeps them as they were."""
        if index > self.index:
            self.states = self.forward_through(self.states, weights, first=self.index, last=index - 1)
            self._sharing.discard(self)
            self._sharing = WeakSet([self])
            self.index = index

    def forward_through(self, states: torch.Tensor, weights: Weights, *, first: int, last: int) -> torch.Tensor:
        """Return what states at the entrance of block `first` become behind block `last`, one block at a time."""
        for index in range(first, last + 1):
            with self.streamed.block(index, weights) as block:
                states = self.forward(self.run(block, index), states)
        return states

    def run(self, block: nn.Module, index: int) -> Run:
        """Bind a block to its arguments, for batches of any size."""

        def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
            return self.streamed.forward(block, hidden_BTD, self.calls_for(len(hidden_BTD))[index])

        return run

    def forward(self, run: Run, states: torch.Tensor, *, shared: bool = True) -> torch.Tensor:
        """Send windows through something, batch by batch; a tensor of their own comes back.

        `shared`: the ranks share the batches, where they share the work on this stream; else every rank runs all.
        """
        device, batches = self.streamed.device, list(self._cut(states))
        outputs = map(run, crossed(self._own_of(batches) if shared else batches, device))
        return self._gather(outputs, self._sizes_of(states), shared=shared)

    def difference(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Subtract hidden states from hidden states."""
        return torch.sub(one, other, out=self._empty(one.shape, torch.result_type(one, other)))

    def mean_square(self, states: torch.Tensor) -> float:
        """Return the mean of the squares, taken in float32."""
        return float(self._empty(states.shape, torch.float32).copy_(states).square_().mean())

    def calls_for(self, size: int) -> list[BlockCall]:
        """Return how each block is called with a batch of a size."""
        if size not in self._calls:
            ((_, self._calls[size]),) = self.streamed.prelude([self._windows_NT[:size]], self._embeddings)
        return self._calls[size]

    def _cut(self, windows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cut windows into batches; of fewer windows than the stream has, the first batches."""
        if isinstance(self._sizes, int):
            yield from torch.split(windows, self._sizes)
            return
        start = 0
        for size in self._sizes:
            if start < len(windows):
                yield windows[start : start + size]
            start += size

    def _sizes_of(self, windows: torch.Tensor) -> list[int]:
        return [len(batch) for batch in self._cut(windows)]

    def _own_of(self, batches: list[Part]) -> list[Part]:
        """Select the batches that this rank works on."""
        return batches[self._own_range(self._group.rank, len(batches))]

    def _own_range(self, rank: int, count: int) -> slice:
        """Return the batches of a rank, of so many in all: the first rank has one wherever there is one."""
        begin, end = (-(-each * count // self._group.size) for each in (rank, rank + 1))
        return slice(begin, end)

    @torch.no_grad()
    def _gather(
        self, parts: Iterator[torch.Tensor], sizes: list[int], *, into: torch.Tensor | None = None, shared: bool = True
    ) -> torch.Tensor:
        """Lay batches of these sizes side by side, in a tensor that is there where they have its dtype.

        `parts`: of this rank alone where the work is shared.
        """
        several = shared and self._group.size > 1
        start = sum(sizes[: self._own_range(self._group.rank, len(sizes)).start]) if several else 0
        for part in parts:
            if into is None or into.dtype != part.dtype:
                into = self._empty(torch.Size((sum(sizes), *part.shape[1:])), part.dtype)
            into[start : start + len(part)] = part
            start += len(part)
        if several:
            into = self._exchanged(into, sizes)
        if into is None:
            assert not sizes
            return self.states
        return into

    def _exchanged(self, states: torch.Tensor | None, sizes: list[int]) -> torch.Tensor:
        """Give every rank the windows that the others worked on; of a rank that had none, `states` is None."""
        kind = None if states is None else (states.shape, states.dtype)
        kind = self._group.broadcast_object(kind)
        assert kind is not None
        if states is None or states.dtype != kind[1]:  # it had no batch that would have told
            states = self._empty(*kind)
        for rank in range(self._group.size):
            owned = self._own_range(rank, len(sizes))
            begin, end = sum(sizes[: owned.start]), sum(sizes[: owned.stop])
            if end > begin:
                self._group.broadcast(states[begin:end], source=rank)
        return states

    def _empty(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Return room in memory, or in a file without a name that goes with the tensor."""
        if isinstance(self._states_in, torch.device):
            return torch.empty(shape, dtype=dtype, device=self._states_in)
        self._states_in.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._states_in)
        try:
            # Taken at once: a full disk is an error here, and would be a signal at some later write.
            os.posix_fallocate(descriptor, 0, shape.numel() * dtype.itemsize)
            return torch.from_file(name, shared=True, size=shape.numel(), dtype=dtype).view(shape)
        finally:
            os.close(descriptor)
            Path(name).unlink()
