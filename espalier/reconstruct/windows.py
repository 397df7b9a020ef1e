"""The windows of a span of blocks: what enters, what should leave, who may move; the three modes of Free Lunch.

The teacher is the dense model, the student is what is fitted. The modes differ in what the two read:
`dense_inputs`: both the dense activations. `sparse_inputs`: both what the fitted prefix gives, so that the target is
the dense window on those inputs. `sparse_inputs_dense_targets`: each its own stream.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from espalier.errors import UnsupportedArchitectureError
from espalier.model.halves import Half, Halves, Run, find_halves
from espalier.model.layout import Block
from espalier.model.numerics import autocast
from espalier.recipe.steps.reconstruct import Mode
from espalier.stream.hidden_states import HiddenStates


@dataclass(frozen=True)
class WindowPart:
    """One window, with its activations (N, T, ...) on the CPU."""

    name: str
    """`attention`, `mlp`, `block`, `blocks`, or the matrix's name within the block."""
    owned: frozenset[str]
    """Names within the span of the parameters that belong to the window."""
    run: Run
    """The student's window."""
    inputs: torch.Tensor
    targets: torch.Tensor
    power: float
    """Mean square of what the dense window gives; of what it adds, where it adds to the hidden states."""


@dataclass
class Streams:
    """Student's and teacher's hidden states at one place; one and the same where the mode says so."""

    mode: Mode
    student: torch.Tensor
    teacher: torch.Tensor

    def __post_init__(self) -> None:
        if self.mode == "dense_inputs":
            self.student = self.teacher
        elif self.mode == "sparse_inputs":
            self.teacher = self.student

    def behind(self, stream: HiddenStates, student: Run, targets: torch.Tensor) -> Streams:
        """Advance both streams past a window, given the teacher's output."""
        moved = targets if self.mode == "dense_inputs" else stream.forward(student, self.student)
        return Streams(self.mode, student=moved, teacher=targets)


@dataclass(frozen=True)
class Pair:
    """One block of the teacher and the same block of the student, real, with the place where they stand."""

    stream: HiddenStates
    layout: Block
    dense: nn.Module
    block: nn.Module
    taught: Run | None = None
    """The dense block where it stands in a model of its own, from which the student's was made by removing parts."""
    behind: Run | None = None
    """Blocks of that model behind this one which the student lacks: its output is to be what leaves them."""

    @property
    def teacher(self) -> Run:
        """The dense block; what the fitted prefix gives it is float32 where autocast left it so."""
        return in_compute_dtype(self.taught or self.stream.run(self.dense, self.layout.index), self.stream)

    def past(self, states: torch.Tensor) -> torch.Tensor:
        """Send the output of the teacher's block through the removed blocks, up to the student's next block."""
        return states if self.behind is None else self.behind(states)

    @property
    def student(self) -> Run:
        """The block that is fitted."""
        return casting(self.stream.run(self.block, self.layout.index), self.stream)


def in_compute_dtype(run: Run, stream: HiddenStates) -> Run:
    """Let what is computed in the compute dtype read wider activations."""
    dtype = stream.streamed.compute_dtype
    return lambda inputs: run(inputs.to(dtype))


def casting(run: Run, stream: HiddenStates) -> Run:
    """Let float32 parameters run in the compute dtype."""
    dtype, device = stream.streamed.compute_dtype, stream.streamed.device

    def cast(inputs: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            return run(inputs)

    return cast


def halves_of(pair: Pair, streams: Streams) -> Iterator[WindowPart]:
    """Yield attention, then mlp; each is cut out of the block's own code by muting the other."""
    stream = pair.stream
    halves = find_halves(pair.dense, pair.teacher, streams.teacher[:1].to(stream.streamed.device))
    attention, dense_attention = _both(pair, halves, "attention")
    mlp, dense_mlp = _both(pair, halves, "mlp")

    targets = stream.forward(dense_attention, streams.teacher)
    yield _adding("attention", halves.owned["attention"], attention, stream, streams=streams, targets=targets)
    mid = streams.behind(stream, attention, targets)
    if not halves.parallel:
        targets = pair.past(stream.forward(dense_mlp, mid.teacher))
        yield _adding("mlp", halves.owned["mlp"], mlp, stream, streams=mid, targets=targets)
        return
    if pair.behind is not None:
        own_stream = streams.mode == "sparse_inputs_dense_targets"
        given = (
            stream.difference(mid.student, streams.student)
            if own_stream
            else stream.difference(targets, streams.teacher)
        )
        targets = stream.difference(pair.past(stream.forward(pair.teacher, streams.teacher)), given)
    elif streams.mode == "sparse_inputs_dense_targets":
        # Both halves add to the block's input: the target of the second is the rest of the block's output.
        asked = stream.forward(pair.teacher, streams.teacher)
        targets = stream.difference(asked, stream.difference(mid.student, streams.student))
    else:
        targets = stream.forward(dense_mlp, streams.teacher)
    yield _adding("mlp", halves.owned["mlp"], mlp, stream, streams=streams, targets=targets)


def matrices_of(pair: Pair, streams: Streams, *, among: Collection[str]) -> Iterator[WindowPart]:
    """Yield linear layers of a block (`among`: names of their weights); targets are the dense layer's outputs.

    Every map costs the forward passes over all windows that the mode reads: the teacher's, the student's or both.
    """
    stream = pair.stream
    for local in [matrix.local for matrix in pair.layout.matrices if f"{matrix.local}.weight" in among]:
        dense = pair.dense.get_submodule(local)
        if streams.mode == "dense_inputs":
            inputs = taught = entering(stream, pair.dense, local, pair.teacher, streams.teacher)
        else:
            inputs = taught = entering(stream, pair.block, local, pair.student, streams.student)
        if streams.mode == "sparse_inputs_dense_targets":
            taught = entering(stream, pair.dense, local, pair.teacher, streams.teacher)
        targets = stream.forward(in_compute_dtype(dense, stream), taught)
        owned = frozenset(name for name, _ in dense.named_parameters(prefix=local))
        run = casting(run_of(pair.block, local), stream)
        yield WindowPart(local, owned, run, inputs, targets, scale(stream, targets))


def whole(
    blocks: Sequence[nn.Module], owned: frozenset[str], stream: HiddenStates, *, streams: Streams, targets: torch.Tensor
) -> WindowPart:
    """Return all blocks of a span as one window, from the stream's position on.

    With several blocks only the hidden states between them are kept for the backward pass.
    """
    runs = [casting(stream.run(block, stream.index + number), stream) for number, block in enumerate(blocks)]

    def run(hidden_BTD: torch.Tensor) -> torch.Tensor:
        keep = len(runs) == 1 or not torch.is_grad_enabled()
        for each in runs:
            hidden_BTD = each(hidden_BTD) if keep else checkpoint(each, hidden_BTD, use_reentrant=False)
        return hidden_BTD

    return _adding("block" if len(runs) == 1 else "blocks", owned, run, stream, streams=streams, targets=targets)


def _adding(
    name: str, owned: frozenset[str], run: Run, stream: HiddenStates, *, streams: Streams, targets: torch.Tensor
) -> WindowPart:
    power = scale(stream, stream.difference(targets, streams.teacher))
    return WindowPart(name, owned, run, streams.student, targets, power)


def scale(stream: HiddenStates, values: torch.Tensor) -> float:
    """Return what the squared errors of a window are relative to."""
    # A window that adds nothing has no scale; its error is then absolute, and zero at the start.
    return stream.mean_square(values) or 1.0


def _both(pair: Pair, halves: Halves, half: Half) -> tuple[Run, Run]:
    """One half of the student and of the teacher."""

    def only(block: nn.Module, run: Run) -> Run:
        def muted(hidden_BTD: torch.Tensor) -> torch.Tensor:
            with halves.only(block, half):
                return run(hidden_BTD)

        return muted

    return only(pair.block, pair.student), only(pair.dense, pair.teacher)


def run_of(block: nn.Module, local: str) -> Run:
    """Run one module of a block by itself."""

    def run(inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = block.get_submodule(local)(inputs)  # looked up anew: an adapter may have taken its place
        return output

    return run


def entering(stream: HiddenStates, block: nn.Module, local: str, run: Run, states: torch.Tensor) -> torch.Tensor:
    """Capture the inputs of a linear layer while its block runs, (N, T, I)."""
    captured: list[torch.Tensor] = []

    def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        captured.append(args[0])

    def inputs_of(hidden_BTD: torch.Tensor) -> torch.Tensor:
        captured.clear()
        run(hidden_BTD)
        if len(captured) != 1 or captured[0].numel() != hidden_BTD.shape[:2].numel() * captured[0].shape[-1]:
            raise UnsupportedArchitectureError(
                f"{local} does not read every token once", hint="Use reconstruct.window `submodule`.", module=local
            )
        return captured[0].reshape(*hidden_BTD.shape[:2], -1)  # OPT flattens batch and time

    handle = block.get_submodule(local).register_forward_pre_hook(hook)
    try:
        return stream.forward(inputs_of, states)
    finally:
        handle.remove()
