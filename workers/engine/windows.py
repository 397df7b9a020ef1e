"""The windows of one block and the dense activations around them: what enters, what should leave, who may move."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from workers.engine.layout import Block
from workers.engine.model import BlockCall, StreamedModel
from workers.engine.submodules import Half, Halves, Run, find_halves
from workers.engine.weights import Weights


@dataclass(frozen=True)
class Part:
    """One window of a block, with its dense activations (N, T, ...) on the CPU."""

    name: str
    """`attention`, `mlp`, `block`, or the matrix's name within the block."""
    owned: frozenset[str]
    """Names of the parameters that belong to the window."""
    inputs: torch.Tensor
    targets: torch.Tensor
    residual: bool
    """True where the window adds to the hidden states that it reads."""
    within: Callable[[nn.Module], AbstractContextManager[None]]
    """While it holds, a run of the block is a run of the window."""
    child: str = ""
    """The module that is run; empty for the block itself."""


class DenseWalk:
    """The dense model's hidden states on their way through the blocks."""

    def __init__(self, streamed: StreamedModel, windows_NT: torch.Tensor, dense: Weights, *, batch_size: int) -> None:
        self.streamed = streamed
        self.batch_size = batch_size
        self.index = 0
        """The block that comes next."""
        self._windows_NT = windows_NT
        self._dense = dense
        self._calls: dict[int, list[BlockCall]] = {}
        batches = list(torch.split(windows_NT, batch_size))
        hidden = []
        for entering, calls in streamed.prelude(batches, dense):
            hidden.append(entering.cpu())
            self._calls[len(entering)] = calls
        self.hidden = torch.cat(hidden)
        """What enters the next block, for all windows; on the CPU."""

    def run(self, block: nn.Module) -> Run:
        """Bind the next block to its arguments, for batches of any size."""
        index = self.index

        def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
            return self.streamed.forward(block, hidden_BTD, self._calls_for(len(hidden_BTD))[index])

        return run

    @torch.no_grad()
    def through(self, run: Run, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """Send all windows through something, batch by batch."""
        batches = torch.split(self.hidden if inputs is None else inputs, self.batch_size)
        return torch.cat([run(batch.to(self.streamed.device)).cpu() for batch in batches])

    def advance(self, output: torch.Tensor) -> None:
        """Go on to the next block with what the last one gave."""
        self.hidden = output
        self.index += 1

    def _calls_for(self, size: int) -> list[BlockCall]:
        # Windows are equally long, so that the arguments depend on the size of the batch alone.
        if size not in self._calls:
            ((_, self._calls[size]),) = self.streamed.prelude([self._windows_NT[:size]], self._dense)
        return self._calls[size]


def parts_of(kind: str, walk: DenseWalk, block: nn.Module, layout: Block) -> Iterator[Part]:
    """Cut a dense block into windows (`matrix`, `submodule` or `block`), in order, and send the walk past it."""
    run = walk.run(block)
    if kind == "submodule":
        output = yield from _halves(walk, block, run)
    elif kind == "matrix":
        for matrix in layout.matrices:
            yield _matrix(walk, block, run, matrix.local)
        output = walk.through(run)
    else:
        output = walk.through(run)
        owned = frozenset(name for name, _ in block.named_parameters())
        yield Part("block", owned, walk.hidden, output, residual=True, within=lambda _: nullcontext())
    walk.advance(output)


def _halves(walk: DenseWalk, block: nn.Module, run: Run) -> Generator[Part, None, torch.Tensor]:
    halves = find_halves(block, run, walk.hidden[:1].to(walk.streamed.device))

    def part(half: Half, inputs: torch.Tensor) -> Part:
        with halves.only(block, half):
            targets = walk.through(run, inputs)
        return Part(half, halves.owned[half], inputs, targets, residual=True, within=_only(halves, half))

    attention = part("attention", walk.hidden)
    yield attention
    mlp = part("mlp", walk.hidden if halves.parallel else attention.targets)
    yield mlp
    return walk.through(run) if halves.parallel else mlp.targets


def _only(halves: Halves, half: Half) -> Callable[[nn.Module], AbstractContextManager[None]]:
    return lambda block: halves.only(block, half)


def _matrix(walk: DenseWalk, block: nn.Module, run: Run, local: str) -> Part:
    module = block.get_submodule(local)
    seen: list[torch.Tensor] = []

    def look(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0])

    def inputs_of(hidden_BTD: torch.Tensor) -> torch.Tensor:
        seen.clear()
        run(hidden_BTD)
        (entered,) = seen
        return entered.reshape(len(hidden_BTD), -1, entered.shape[-1])  # OPT flattens batch and time

    handle = module.register_forward_pre_hook(look)
    try:
        inputs = walk.through(inputs_of)
    finally:
        handle.remove()
    owned = frozenset(f"{local}.{name}" for name, _ in module.named_parameters())
    targets = walk.through(module, inputs)
    return Part(local, owned, inputs, targets, residual=False, within=lambda _: nullcontext(), child=local)
