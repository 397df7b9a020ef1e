"""Blocks as checkpoints: a phase writes each finished block, and restores those of an earlier attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.messages import Layer
from espalier.model import numerics
from espalier.model.safetensors_writer import save_overlay
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
    """Write a block's changed tensors and masks, lay them over the weights and report the checkpoint."""
    name = CheckpointName(Kind.BLOCK, block=index)
    path = session.reporter.checkpoint_path(phase.name, name)
    digest = session.group.led(lambda: save_overlay(path, tensors, masks))
    session.weights = session.weights.with_overlay(path)
    peak = numerics.peak_memory_bytes(session.device)
    document = {**(data or {}), "seconds": seconds, "peak_memory_bytes": peak}
    session.reporter.checkpoint(phase.name, name, path, document, sha256=digest)


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
