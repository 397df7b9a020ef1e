"""Merge what retraining trained into the weights, in the dtype of the artifact, and prove the zeros."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from espalier.model import masks
from espalier.model.layout import Block, Matrix
from espalier.session import Session
from espalier.session.resume import finish_block, restore_block
from espalier.training.lora import ADAPTERS, LORA_A, LORA_B, Lora


def run(session: Session, trained: Path) -> None:
    """Write every block's merged tensors as an overlay; what lies outside the blocks goes with the last one."""
    blocks = session.streamed.layout.blocks
    with session.reporter.phase("merging", total=len(blocks), unit="block") as phase:
        merging = Merging(session, trained)
        for block in blocks:
            began = time.monotonic()
            if restore_block(session, phase, block.index) is None:
                tensors: dict[str, torch.Tensor] = {}
                if session.group.leads:
                    tensors = merging.whole(block) | merging.matrices(block)
                    if block is blocks[-1]:
                        tensors |= merging.whole(None) | merging.head()
                finish_block(session, phase, block.index, tensors, {}, seconds=time.monotonic() - began)
            phase.progress(block.index + 1)


class Merging:
    """Writes what training left of each matrix: its adapter merged, or its weight, and zeros where there were zeros."""

    def __init__(self, session: Session, trained: Path) -> None:
        self.session = session
        self.file: Any = safe_open(trained, framework="pt")
        names: list[str] = self.file.offset_keys()  # type: ignore[no-untyped-call]
        self.names = {name.removeprefix("value:") for name in names if name.startswith("value:")}
        assert session.retrain is not None
        self.spec = session.retrain
        self.scale = self.spec.alpha / self.spec.rank
        self.pruned = {
            matrix.tensor: matrix
            for matrix in session.streamed.layout.matrices
            if matrix.name in session.weights.mask_names
        }

    def value(self, name: str) -> torch.Tensor:
        """Read a trained value, float32."""
        tensor: torch.Tensor = self.file.get_tensor(f"value:{name}")
        return tensor

    def whole(self, block: Block | None) -> dict[str, torch.Tensor]:
        """Return the trained tensors of a block (None: outside all blocks), by tensor name, in the dtype written."""
        owners = self.session.streamed.layout.blocks
        tensors = {}
        for name, tensor in self.session.streamed.tensors.items():
            owner = next((each for each in owners if name.startswith(f"{each.name}.")), None)
            if name in self.names and owner is block:
                tensors[tensor] = self.value(name).to(self.session.weights.dtype(tensor))
                if tensor in self.pruned:
                    self._prove(self.pruned[tensor], tensors[tensor])
        return tensors

    def matrices(self, block: Block) -> dict[str, torch.Tensor]:
        """Merge the block's adapters, except those kept apart; return matrices by tensor name, as they are written."""
        if self.spec.adapter == "lora":
            return {}
        adapted = [matrix for matrix in block.matrices if f"{matrix.name}.{LORA_A}" in self.names]
        return {matrix.tensor: self._merged(matrix) for matrix in adapted}

    def head(self) -> dict[str, torch.Tensor]:
        """Merge the update of the head."""
        if "head" not in self.spec.trainable:
            return {}
        inside = {matrix.name for matrix in self.session.streamed.layout.matrices}
        adapted = {name.removesuffix(f".{LORA_A}") for name in self.names if name.endswith(LORA_A)}
        (name,) = adapted - inside
        tensor = self.session.streamed.tensors[f"{name}.weight"]
        weight_OI = self.session.weights.get(tensor)
        b_OR, a_RI = self._factors(name)
        everything = torch.ones_like(weight_OI, dtype=torch.bool)
        return {tensor: Lora.merged(weight_OI, b_OR, a_RI, everything, self.scale).to(weight_OI.dtype)}

    def _merged(self, matrix: Matrix) -> torch.Tensor:
        stored = matrix.view(self.session.weights.get(matrix.tensor))
        mask_OI = self.session.mask(matrix.name)
        assert self.spec.adapter is not None
        adapter = ADAPTERS[self.spec.adapter]
        merged_OI = adapter.merged(stored, *self._factors(matrix.name), mask_OI, self.scale).to(stored.dtype)
        # A zero times a negative number is a negative zero.
        merged = matrix.view(merged_OI.masked_fill_(~mask_OI, 0.0)).contiguous()
        self._prove(matrix, merged)
        return merged

    def _factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.value(f"{name}.{LORA_B}"), self.value(f"{name}.{LORA_A}")

    def _prove(self, matrix: Matrix, weight: torch.Tensor) -> None:
        masks.prove(matrix.view(weight), self.session.mask(matrix.name), module=matrix.name)
