"""Inputs of chosen modules while a block runs; the hooks are gone when the `with` ends, whatever happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from espalier.distributed.shards import Shards
from espalier.errors import UnsupportedArchitectureError
from espalier.methods.statistic import Declared, ReaderStatistic, Statistics, readers_among
from espalier.model.layout import Matrix
from espalier.stream.reduction import reduced
from espalier.stream.statistics import InputAccumulator, require_finite_inputs


class Capture:
    """One accumulator per distinct input; query, key and value read one tensor and pay once."""

    def __init__(
        self,
        matrices: Sequence[Matrix],
        statistics: Declared,
        readers: Mapping[type[ReaderStatistic], Mapping[str, Matrix]],
        *,
        sample_tokens: int,
        device: torch.device,
        shards: Shards | None = None,
    ) -> None:
        self.readers = readers
        """Of every statistic that is taken at another matrix: name of a matrix -> that matrix."""
        self._matrices = {matrix.name: matrix for matrix in matrices}
        for read_by in readers.values():
            for reader in [read_by[matrix.name] for matrix in matrices if matrix.name in read_by]:
                self._matrices.setdefault(reader.name, reader)
        self._device = device
        self._statistics = statistics
        self._sample_tokens = sample_tokens
        self._batch_inputs: dict[str, tuple[torch.Tensor, InputAccumulator]] = {}
        self.inputs: dict[str, InputAccumulator] = {}
        """Matrix name -> what it read."""
        self._shards = shards
        self._begun, self._left = 0, shards.own_sizes[0] if shards else 0
        """The shard whose windows come next, and how many of them."""

    @property
    def watched(self) -> list[Matrix]:
        """The matrices asked for, and those whose inputs tell of them."""
        return list(self._matrices.values())

    def forget_batch(self, *_: object) -> None:
        """Forget which tensors have been counted: the next batch brings new ones."""
        self._batch_inputs.clear()

    def begin_batch(self, _module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Take note that the block is called with the next windows of the stream."""
        self.forget_batch()
        if self._shards is None:
            return
        while not self._left:
            self._end_shard()
            self._left = self._shards.own_sizes[self._begun]
        self._left -= len(args[0])

    def finish(self) -> None:
        """Add up the shards, of all ranks; what was captured is whole from here on."""
        self.forget_batch()
        if self._shards is None:
            return
        count = len(self._shards.own_sizes)
        while self._begun < count:
            self._end_shard()
        for accumulator in self._distinct():
            accumulator.end_shards(count)
        if self._shards.group.size > 1:
            self.inputs = reduced(self.inputs, list(self._matrices), self._shards.group, empty=self._accumulator)

    def _end_shard(self) -> None:
        for accumulator in self._distinct():
            accumulator.end_shard(self._begun)
        self._begun += 1

    def _distinct(self) -> list[InputAccumulator]:
        return list({id(each): each for each in self.inputs.values()}.values())

    def of(self, name: str) -> InputAccumulator:
        """Return the accumulator of one matrix, empty for an expert without tokens; raise for others never reached."""
        if name not in self.inputs:
            matrix = self._matrices[name]
            if not matrix.routed:
                raise UnsupportedArchitectureError(
                    f"{name} takes no part in the forward pass", hint="Leave it out with targets.exclude.", module=name
                )
            self.inputs[name] = self._accumulator(name)
            self.inputs[name].add(torch.zeros(0, matrix.shape[1], device=self._device))
        return self.inputs[name]

    def statistics(self, name: str) -> Statistics:
        """Return all statistics of one matrix, at its own input and at those that read its outputs."""
        require_finite_inputs({each: self.inputs[each] for each in self._matrices if each in self.inputs})
        known = dict(self.of(name).statistics(name))
        for kind, readers in self.readers.items():
            if name in readers:
                reader = readers[name].name
                value = self.of(reader).statistics(reader)[kind.of]
                known[kind] = kind.at_outputs(value, num_outputs=self._matrices[name].shape[0])
        return known

    @property
    def idle_experts(self) -> list[str]:
        """The experts that no token was routed to."""
        names = [name for name, matrix in self._matrices.items() if matrix.routed and not self.of(name).tokens]
        return list(dict.fromkeys(name.rpartition(".")[0] for name in names))

    def record(self, name: str, input_BTI: torch.Tensor) -> None:
        """Count one input of one matrix."""
        for tensor, accumulator in self._batch_inputs.values():
            # Identity is safe: `_seen` holds the tensor, so its memory cannot have been given to another.
            if tensor is input_BTI and self.inputs.get(name, accumulator) is accumulator:
                self.inputs[name] = accumulator
                return
        accumulator = self.inputs.get(name) or self._accumulator(name)
        accumulator.add(input_BTI.flatten(end_dim=-2))
        self.inputs[name] = accumulator
        self._batch_inputs[name] = (input_BTI, accumulator)

    def _accumulator(self, name: str) -> InputAccumulator:
        routed = self._matrices[name].routed
        return InputAccumulator(self._statistics, sample_tokens=self._sample_tokens, routed=routed)


@contextmanager
def capturing(
    block: nn.Module,
    matrices: Sequence[Matrix],
    statistics: Declared = (),
    *,
    siblings: Sequence[Matrix] | None = None,
    sample_tokens: int = 0,
    shards: Shards | None = None,
) -> Iterator[Capture]:
    """Watch the inputs of `matrices` while `block` runs.

    `siblings`: all matrices of the block, among which those are found that read the outputs of others. `shards`: of the
    windows that go through the block, each once and in order; what is captured is there when the context has ended, and
    is that of all ranks. None: the statistics are those of the batches as they come.
    """
    readers = {kind: kind.readers(block, siblings or matrices) for kind in readers_among(statistics)}
    device = next(block.parameters()).device
    capture = Capture(matrices, statistics, readers, sample_tokens=sample_tokens, device=device, shards=shards)

    def watch(name: str) -> Any:  # noqa: ANN401 - torch's own hook type is as wide
        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            capture.record(name, args[0])

        return hook

    hooks = [
        block.get_submodule(matrix.local).register_forward_pre_hook(watch(matrix.name)) for matrix in capture.watched
    ]
    hooks.append(block.register_forward_pre_hook(capture.begin_batch))
    try:
        yield capture
    finally:
        capture.forget_batch()
        for hook in hooks:
            hook.remove()
    capture.finish()
