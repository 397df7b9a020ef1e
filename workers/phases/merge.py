"""Merge what retraining trained into the weights, in the dtype of the artifact, and prove the zeros."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from workers.engine import masks
from workers.engine.layout import Block, Matrix
from workers.engine.lora import LORA_A, LORA_B, effective_weight
from workers.phases.base import Context


def run(context: Context, trained: Path) -> None:
    """Write every block's merged tensors as an overlay; what lies outside the blocks goes with the last one."""
    blocks = context.streamed.layout.blocks
    with context.phase("merging", total=len(blocks), unit="block") as phase:
        merging = _Merging(context, trained)
        for block in blocks:
            began = time.monotonic()
            if phase.stored_block(block.index) is None:
                tensors = merging.vectors(block) | merging.matrices(block)
                if block is blocks[-1]:
                    tensors |= merging.vectors(None)
                phase.finish_block(block.index, tensors, {}, seconds=time.monotonic() - began)
            phase.progress(block.index + 1)


class _Merging:
    def __init__(self, context: Context, trained: Path) -> None:
        self.context = context
        self.file: Any = safe_open(trained, framework="pt")
        names: list[str] = self.file.offset_keys()  # type: ignore[no-untyped-call]
        self.names = {name.removeprefix("value:") for name in names if name.startswith("value:")}
        spec = context.request.spec.retrain
        assert spec is not None
        self.scale = spec.alpha / spec.rank

    def value(self, name: str) -> torch.Tensor:
        """A trained value, float32."""
        tensor: torch.Tensor = self.file.get_tensor(f"value:{name}")
        return tensor

    def vectors(self, block: Block | None) -> dict[str, torch.Tensor]:
        """Trained norms and biases of a block (None: outside all blocks), by tensor name, as they are written."""
        owners = self.context.streamed.layout.blocks
        found = {}
        for name, tensor in self.context.streamed.tensors.items():
            owner = next((each for each in owners if name.startswith(f"{each.name}.")), None)
            if name in self.names and owner is block:
                found[tensor] = self.value(name).to(self.context.weights.dtype(tensor))
        return found

    def matrices(self, block: Block) -> dict[str, torch.Tensor]:
        """The block's adapted matrices, merged, by tensor name, as they are written."""
        adapted = [matrix for matrix in block.matrices if f"{matrix.name}.{LORA_A}" in self.names]
        return {matrix.tensor: self._merged(matrix) for matrix in adapted}

    def _merged(self, matrix: Matrix) -> torch.Tensor:
        stored = matrix.view(self.context.weights.get(matrix.tensor))
        mask_OI = self.context.mask(matrix.name)
        b_OR, a_RI = self.value(f"{matrix.name}.{LORA_B}"), self.value(f"{matrix.name}.{LORA_A}")
        merged_OI = effective_weight(stored, b_OR, a_RI, mask_OI, self.scale).to(stored.dtype)
        masks.prove(merged_OI, mask_OI, module=matrix.name)
        return matrix.view(merged_OI).contiguous()
