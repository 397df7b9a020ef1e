"""Input statistics of the dense model, block by block: gathered once, stored, and the same for every sparsity.

With dense propagation nothing that is pruned changes what comes after it, so that these statistics are a result of
`calibrating` by themselves: a later attempt, and every other job on the same model and text, starts from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.distributed.shards import Shards
from espalier.methods import stored_statistics
from espalier.methods.statistic import (
    Declared,
    InputStatistic,
    ReaderStatistic,
    Statistics,
    gathered,
    readers_among,
    with_implied,
)
from espalier.model.layout import Block, Matrix
from espalier.model.safetensors_writer import save_tensors
from espalier.prune.targets import selected
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.capture import Capture, capturing
from espalier.stream.hidden_states import HiddenStates

MAX_BYTES: Final = 4 * 2**30
"""Above this the statistics of a model are cheaper to gather again than to move: every job gathers its own."""


@dataclass(frozen=True)
class Reading:
    """The input statistics of one block's matrices, read one matrix at a time."""

    statistics: Callable[[Matrix], Statistics]
    idle_experts: list[str]
    input_of: Callable[[Matrix], Hashable]
    """What a matrix reads: equal values where matrices read the same."""
    sample: Callable[[Matrix], torch.Tensor] | None = None
    """The first tokens (T, I); None where the error of a mask is taken from Gram matrices."""


@dataclass(frozen=True)
class _Stored:
    path: Path
    data: Mapping[str, Any]


class Inputs:
    """The stored statistics of every block; each is read when its block is pruned."""

    def __init__(self, session: Session, step: PruneStep) -> None:
        self._session, self._step = session, step
        self._gathered = gathered(step.gathers)
        self._blocks: dict[int, _Stored] = {}

    def of(self, block: Block) -> Reading:
        """Read a block's statistics from its file."""
        stored = self._blocks[block.index]
        tensors = {name: tensor.to(self._session.device) for name, tensor in load_file(stored.path).items()}
        data = stored.data
        statistics = {name: dict(self._own(tensors, data["reads"][name])) for name in data["reads"]}
        for kind in readers_among(self._step.gathers):
            warn_of_absent(self._session, block, {kind: data[kind.name]})
            for maker, reader in data[kind.name].items():
                if maker in statistics:
                    num_outputs = self._session.streamed.layout.by_name[maker].shape[0]
                    statistics[maker][kind] = kind.at_outputs(statistics[reader][kind.of], num_outputs=num_outputs)
        return Reading(
            lambda matrix: statistics[matrix.name], list(data["idle"]), lambda matrix: data["reads"][matrix.name]
        )

    def _own(self, tensors: Mapping[str, torch.Tensor], leader: str) -> Statistics:
        return with_implied({kind: tensors[self._key(leader, kind)] for kind in self._gathered})

    def _key(self, leader: str, kind: type[InputStatistic]) -> str:
        """Return the key of a statistic in a file; where the file holds one statistic, the name of the matrix alone."""
        return leader if len(self._gathered) == 1 else f"{leader}/{kind.name}"

    def gather(self, phase: PhaseRun, windows_NT: torch.Tensor) -> None:
        """Run the dense model block by block and store the input statistics that are not stored yet."""
        session, statistics = self._session, stored_statistics.label(self._step.gathers)
        stream: HiddenStates | None = None
        for block in session.streamed.layout.blocks:
            name = CheckpointName(Kind.INPUTS, statistics=statistics, block=block.index)
            stored = session.reporter.stored(phase.name, name)
            if stored is not None:
                self._blocks[block.index] = _Stored(session.workspace / stored.path, phase.reuse(stored))
            else:
                began = time.monotonic()
                stream = stream or HiddenStates(
                    session.streamed,
                    windows_NT,
                    session.dense,
                    states_in=session.states_in,
                    shards=Shards.of(len(windows_NT), session.group),
                )
                tensors, data = self._gather_block(stream, block)
                path = session.reporter.checkpoint_path(phase.name, name)
                digest = session.group.led(partial(save_tensors, path, tensors))
                self._blocks[block.index] = _Stored(path, data | {"seconds": time.monotonic() - began})
                document = dict(self._blocks[block.index].data)
                session.reporter.checkpoint(phase.name, name, path, document, sha256=digest)
            phase.progress(block.index + 1)

    def _gather_block(self, stream: HiddenStates, block: Block) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        session = self._session
        for previous in session.streamed.layout.blocks[stream.index : block.index]:
            with session.streamed.block(previous.index, session.dense) as module:
                stream.advance(module)
        matrices = selected(session, block)
        kinds = tuple(stored_statistics.kinds(self._step.gathers))
        with (
            session.streamed.block(block.index, session.dense) as module,
            capturing(module, matrices, kinds, siblings=block.matrices, shards=stream.shards) as capture,
        ):
            stream.advance(module)
        tensors, data = self._gathered_of(capture)
        names = {matrix.name for matrix in capture.watched}
        for kind, readers in capture.readers.items():
            data[kind.name] = {maker: reader.name for maker, reader in readers.items() if maker in names}
        return tensors, data | {"idle": capture.idle_experts}

    def _gathered_of(self, capture: Capture) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the tensors of a block's file, one per distinct input, and the input of each matrix."""
        tensors: dict[str, torch.Tensor] = {}
        reads: dict[str, str] = {}
        tokens: dict[str, int] = {}
        first: dict[int, str] = {}
        for matrix in capture.watched:
            accumulator = capture.of(matrix.name)
            leader = reads[matrix.name] = first.setdefault(id(accumulator), matrix.name)
            if leader == matrix.name:
                statistics, tokens[leader] = accumulator.statistics(matrix.name), accumulator.tokens
                tensors |= {self._key(leader, kind): statistics[kind].cpu().contiguous() for kind in self._gathered}
        return tensors, {"reads": reads, "tokens": tokens}


def stored_for(session: Session, step: PruneStep) -> Inputs | None:
    """Return the stored statistics that a step's pruning reads; None where it gathers its own, or none at all."""
    kinds = step.gathers
    if not kinds or session.request.spec.propagation != "dense" or _bytes(session, kinds) > MAX_BYTES:
        return None
    return Inputs(session, step)


def _bytes(session: Session, declared: Declared) -> int:
    distinct = {
        (matrix.block, matrix.local.rpartition(".")[0], matrix.shape[1])
        for block in session.streamed.layout.blocks
        for matrix in selected(session, block)
    }
    sizes = [kind.size for kind in gathered(declared)]
    return sum(4 * inputs**2 if size == "gram" else 8 * inputs for _, _, inputs in distinct for size in sizes)


def warn_of_absent(
    session: Session, block: Block, readers_by_kind: Mapping[type[ReaderStatistic], Mapping[str, object]]
) -> None:
    """Warn where a method reads statistics of other matrices, and a block has no such matrix."""
    assert session.step is not None
    for kind, readers in readers_by_kind.items():
        if not readers:
            code, text = kind.absent
            session.reporter.warn(code, text.format(block=block.name, method=session.step.method))
