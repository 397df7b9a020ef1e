"""The stored tensors of one block on a GPU: each crosses once, whoever reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espalier.model.numerics import is_accelerator
from espalier.model.weights import Weights
from espalier.stream.read_ahead import ReadAhead


class BlockTensors:
    """What was read of the block that is at hand; of a CPU nothing is kept, where reading again copies nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ahead = ReadAhead(device)
        self._index: int | None = None
        self._tensors: dict[str, tuple[object, torch.Tensor]] = {}
        """Name -> where it was read from, and what was read last."""

    def enter(self, index: int) -> None:
        """Begin with a block: what was kept of another one is forgotten."""
        if index != self._index:
            self._forget()
            self._index = index

    def expect(self, weights: Weights, names: Sequence[str]) -> None:
        """Read tensors of the next block while this one is computed."""
        self._ahead.expect(weights, names)

    def forget(self) -> None:
        """Keep nothing any more, and read nothing ahead."""
        self._forget()
        self._ahead.forget()

    def _forget(self) -> None:
        self._index = None
        self._tensors.clear()

    def get(self, weights: Weights, name: str) -> torch.Tensor:
        """Return a tensor of the block on the device, in the dtype that `weights` have; nobody may write into it."""
        origin, kept = self._tensors.get(name, (None, None))
        if kept is None or origin != weights.origin(name):
            kept = self._ahead.get(weights, name)
            self.keep(weights, name, kept)
        return kept

    def keep(self, weights: Weights, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor on the device that is what `weights` hold under a name, and forget what it was before."""
        if is_accelerator(self._device):
            self._tensors[name] = weights.origin(name), tensor
