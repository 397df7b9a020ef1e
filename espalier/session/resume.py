"""Blocks as checkpoints: a phase writes each finished block, and restores those of an earlier attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.messages import Layer
from espalier.model import numerics
from espalier.model.safetensors_writer import overlay_of, save_overlay, save_tensors
from espalier.model.tensor_file import PendingFile
from espalier.session.reporter import PhaseRun
from espalier.session.state import Session


def finish_block(
    session: Session,
    phase: PhaseRun,
    index: int,
    tensors: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],
    *,
    seconds: float,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Lay a block's changed tensors and masks over the weights, write them and report the checkpoint.

    Where memory allows, the file is written while the next block is computed, and reported once it is whole.
    """
    name = CheckpointName(Kind.BLOCK, block=index)
    path = session.reporter.checkpoint_path(phase.name, name)
    peak = numerics.peak_memory_bytes(session.device)
    document = {**(data or {}), "seconds": seconds, "peak_memory_bytes": peak}
    if not session.overlaps or session.group.size > 1:  # other ranks read the file: they wait for it
        digest = session.group.led(lambda: save_overlay(path, tensors, masks))
        session.weights = session.weights.with_overlay(path)
        session.reporter.checkpoint(phase.name, name, path, document, sha256=digest)
        return
    overlay = overlay_of(tensors, masks)
    file = PendingFile(overlay)
    session.weights = session.weights.with_overlay(path, file)

    def write() -> str:
        digest = save_tensors(path, overlay)
        file.written(path)
        return digest

    session.reporter.checkpoint_later(phase.name, name, path, document, write=write)


def restore_block(session: Session, phase: PhaseRun, index: int) -> dict[str, Any] | None:
    """Restore a block of an earlier attempt: its tensors, and its rows and warnings.

    Return what was written with it; None when the block has yet to be done.
    """
    stored = session.reporter.stored(phase.name, CheckpointName(Kind.BLOCK, block=index))
    if stored is None:
        return None
    session.weights = session.weights.with_overlay(session.workspace / stored.path)
    data = phase.reuse(stored)
    rows = [Layer.model_validate(row) for row in data.get("layers", [])]  # a merged block has none
    session.results.layers |= {row.name: row for row in rows}
    session.results.add_warnings(data.get("warnings", []))
    return data
