"""Choose the windows of a reconstruction: as the spec names them, or as memory allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from espalier.checkpoint_names import WINDOW
from espalier.errors import TargetsError, UnsupportedArchitectureError
from espalier.memory.windows import FitBatch, MemoryBudget, largest_window
from espalier.model import numerics
from espalier.model.halves import find_halves
from espalier.model.layout import Block, Matrix
from espalier.prune.targets import selected
from espalier.recipe.steps.reconstruct import BlockWindow, Reconstruct
from espalier.session import Session
from espalier.session.reporter import PhaseRun
from espalier.stream.hidden_states import HiddenStates


def choose(session: Session, phase: PhaseRun, spec: Reconstruct, windows_NT: torch.Tensor) -> str | BlockWindow:
    """Choose the kind of window and record it in the protocol; the choice of `auto` is stored for resumed runs."""
    kind: str | BlockWindow = spec.window
    if kind == "auto":
        stored = session.reporter.stored(phase.name, WINDOW)
        kind = stored.data["window"] if stored else session.group.led(lambda: largest(session, spec, windows_NT))
        if stored is None:
            path = session.reporter.checkpoint_path(phase.name, WINDOW, suffix=".json")
            if session.group.leads:
                path.write_text(json.dumps(kind))
            session.reporter.checkpoint(phase.name, WINDOW, path, {"window": kind})
        kind = _smaller(session, kind, windows_NT, times=session.request.ran_out.get("reconstructing", 0))
    if kind == "matrix":
        _require_something_in_a_matrix(session, spec)
    session.results.protocol[phase.name] = session.results.protocol.get(phase.name, {}) | {
        "window": kind if isinstance(kind, str) else kind.model_dump(),
        "mode": spec.mode,
        "loss": spec.loss,
        "samples": windows_NT.shape[0],
        "sequence_length": windows_NT.shape[1],
        "tokens": windows_NT.numel(),
    }
    return kind


def spans(kind: str | BlockWindow, blocks: Sequence[Block]) -> list[Sequence[Block]]:
    """Group consecutive blocks that are fitted from one checkpoint to the next."""
    size = kind.blocks if isinstance(kind, BlockWindow) else len(blocks) if kind == "all" else 1
    return [blocks[first : first + size] for first in range(0, len(blocks), size)]


def _require_something_in_a_matrix(session: Session, spec: Reconstruct) -> None:
    """Raise TargetsError where windows of one matrix would hold nothing that is to be trained."""
    biased = any(f"{matrix.name}.bias" in session.streamed.tensors for matrix in _pruned(session))
    if not spec.moves_a_matrix(biased=biased):
        raise TargetsError(
            "a window of one matrix holds no norm" + (", and no pruned matrix has a bias" if not biased else ""),
            hint="Train `weights` or `mask_lora`, or ask for reconstruct.window `block`; "
            "`auto` takes `matrix` where memory or the model allows nothing larger.",
        )


def _smaller(session: Session, kind: str, windows_NT: torch.Tensor, *, times: int) -> str:
    """Return the kind so many times smaller, or the smallest that the model can be cut into."""
    kinds = ("block", "submodule", "matrix")
    return _cut_into(session, kinds[min(kinds.index(kind) + times, 2)], windows_NT) if times else kind


def largest(session: Session, spec: Reconstruct, windows_NT: torch.Tensor) -> str:
    """Choose the largest kind that memory allows, of those that the model can be cut into."""
    return _cut_into(session, by_memory(session, spec, windows_NT), windows_NT)


def _cut_into(session: Session, kind: str, windows_NT: torch.Tensor) -> str:
    """Return the kind that is nearest to one, of those that the model can be cut into."""
    # A matrix by itself cannot make up for parts that are gone, and an expert's does not read every token.
    by_matrix = session.kept is None and not any(matrix.routed for matrix in _pruned(session))
    if kind == "matrix" and not by_matrix:
        kind = "submodule"
    if kind == "submodule" and not _splits(session, windows_NT[:1]):
        kind = "matrix" if by_matrix else "block"
    return kind


def _pruned(session: Session) -> list[Matrix]:
    return [matrix for block in session.streamed.layout.blocks for matrix in selected(session, block)]


def _splits(session: Session, probe_NT: torch.Tensor) -> bool:
    """Tell whether the first block, run on a window of tokens, is attention and feed-forward net added up."""
    streamed, weights = session.source_streamed, session.source
    stream = HiddenStates(streamed, probe_NT, weights, batches=1)
    with streamed.block(0, weights) as block:
        try:
            find_halves(block, stream.run(block, 0), stream.states.to(session.device))
        except UnsupportedArchitectureError:
            return False
    return True


def by_memory(session: Session, spec: Reconstruct, windows_NT: torch.Tensor) -> str:
    """Choose the largest kind that memory allows."""
    shape, itemsize = session.streamed.shape, session.compute_dtype.itemsize
    batch = FitBatch(
        tokens=min(spec.batch_size, len(windows_NT)) * windows_NT.shape[1],
        itemsize=itemsize,
        hidden_states=0 if isinstance(session.states_in, Path) else windows_NT.numel() * shape.width * itemsize,
    )
    request, cpu = session.request, session.device.type == "cpu"
    host = _capped(numerics.host_memory_bytes(), request.max_host_memory_bytes)
    device = host if cpu else _capped(numerics.free_bytes(session.device), request.max_device_memory_bytes)
    return largest_window(shape.kinds, MemoryBudget(device=device, host=host, shared=cpu), batch)


def _capped(there: int, limit: int | None) -> int:
    return there if limit is None else min(there, limit)
