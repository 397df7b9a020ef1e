"""What the dense model's matrices read, block by block: gathered once, stored, and the same for every sparsity.

With dense propagation nothing that is pruned changes what comes after it, so that these statistics are a result of
`calibrating` by themselves: a later attempt, and every other job on the same model and text, starts from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from espalier.methods.base import InputStatistics, Need
from espalier.model.layout import Block, Matrix
from espalier.prune.gates import warn_of_none
from espalier.prune.targets import selected
from espalier.recipe.prune import PruneStep
from espalier.reporter import PhaseRun
from espalier.session import Session
from espalier.stream.capture import Capture, capturing
from espalier.stream.gated_mlp import Gated
from espalier.stream.walk import Stream

MOST_BYTES: Final = 4 * 2**30
"""Above this the statistics of a model are cheaper to gather again than to move: every job walks for itself."""


@dataclass(frozen=True)
class Reading:
    """What the matrices of one block read; asked for one matrix at a time."""

    statistics: Callable[[Matrix], InputStatistics]
    idle_experts: list[str]
    sample: Callable[[Matrix], torch.Tensor] | None = None
    """The first tokens (T, I); None where the error of a mask is taken from Gram matrices."""


@dataclass(frozen=True)
class _Stored:
    path: Path
    data: Mapping[str, Any]


class Inputs:
    """The stored statistics of every block; they are read when their block's turn comes."""

    def __init__(self, session: Session, needs: Need) -> None:
        self._session, self.needs = session, needs
        self._blocks: dict[int, _Stored] = {}

    def of(self, block: Block) -> Reading:
        """Read a block's statistics from its file."""
        stored = self._blocks[block.index]
        tensors = load_file(stored.path, device=str(self._session.device))
        data, step = stored.data, self._session.step
        if step is not None and step.reads_neurons and not data["neurons"]:
            warn_of_none(self._session, block)
        found = {name: _statistics(tensors, data, name) for name in data["reads"]}
        for maker, reader in data["neurons"].items():
            norm_N, outputs = found[reader].norm_I, self._session.streamed.layout.by_name[maker].shape[0]
            if maker in found and norm_N is not None:
                neurons_O = norm_N.repeat(outputs // len(norm_N))
                found[maker] = InputStatistics(
                    found[maker].tokens, found[maker].norm_I, found[maker].gram_II, neurons_O
                )  # fmt: skip
        return Reading(lambda matrix: found[matrix.name], list(data["idle"]))

    def gather(self, phase: PhaseRun, windows_NT: torch.Tensor) -> None:
        """Walk through the dense model and store what its matrices read, block by block, as far as it is not stored."""
        session, name = self._session, f"{self.needs}-inputs"
        stored = session.reporter.stored("calibrating")
        stream: Stream | None = None
        for block in session.streamed.layout.blocks:
            key = f"{name}-{block.index:05d}"
            if key in stored:
                self._blocks[block.index] = _Stored(session.workspace / stored[key].path, phase.reuse(stored[key]))
            else:
                began = time.monotonic()
                stream = stream or Stream(session.streamed, windows_NT, session.dense, spill=session.spill)
                tensors, data = self._walked(stream, block)
                path = session.reporter.checkpoint_path("calibrating", key)
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(tensors, path)
                self._blocks[block.index] = _Stored(path, data | {"seconds": time.monotonic() - began})
                session.reporter.checkpoint("calibrating", key, path, dict(self._blocks[block.index].data))
            phase.progress(block.index + 1)

    def _walked(self, stream: Stream, block: Block) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        session = self._session
        for earlier in session.streamed.layout.blocks[stream.index : block.index]:
            with session.streamed.block(earlier.index, session.dense) as module:
                stream.advance(module)
        matrices = selected(session, block)
        with session.streamed.block(block.index, session.dense) as module:
            gated = Gated.of(module, block.matrices)
            watched = [*matrices, *gated.beyond(matrices)]
            with capturing(module, watched, needs=self.needs, sample_tokens=0) as capture:
                stream.advance(module)
        tensors, data = _gathered(watched, capture)
        names = {matrix.name for matrix in watched}
        neurons = {maker: reader.name for maker, reader in gated.readers.items() if maker in names}
        return tensors, data | {"neurons": neurons, "idle": capture.idle_experts}


def stored_for(session: Session, step: PruneStep) -> Inputs | None:
    """The statistics that a step's walk takes from the store; None where it gathers its own, or none at all."""
    needs = step.gathers
    if needs == "none" or session.request.spec.propagation != "dense" or _bytes(session, needs) > MOST_BYTES:
        return None
    return Inputs(session, needs)


def _bytes(session: Session, needs: Need) -> int:
    distinct = {
        (matrix.block, matrix.local.rpartition(".")[0], matrix.shape[1])
        for block in session.streamed.layout.blocks
        for matrix in selected(session, block)
    }
    return sum(4 * inputs**2 if needs == "gram" else 8 * inputs for _, _, inputs in distinct)


def _gathered(watched: list[Matrix], capture: Capture) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a block's file, one for all matrices that read the same, and who reads which."""
    tensors: dict[str, torch.Tensor] = {}
    reads: dict[str, str] = {}
    tokens: dict[str, int] = {}
    first: dict[int, str] = {}
    for matrix in watched:
        accumulator = capture.of(matrix.name)
        leader = reads[matrix.name] = first.setdefault(id(accumulator), matrix.name)
        if leader == matrix.name:
            seen = accumulator.statistics(matrix.name)
            kept = seen.norm_I if seen.gram_II is None else seen.gram_II
            assert kept is not None
            tensors[leader], tokens[leader] = kept.cpu().contiguous(), seen.tokens
    return tensors, {"reads": reads, "tokens": tokens}


def _statistics(tensors: Mapping[str, torch.Tensor], data: Mapping[str, Any], name: str) -> InputStatistics:
    leader = data["reads"][name]
    kept, tokens = tensors[leader], data["tokens"][leader]
    if kept.dim() == 1:
        return InputStatistics(tokens, kept)
    return InputStatistics(tokens, kept.diagonal().double().sqrt(), kept)
