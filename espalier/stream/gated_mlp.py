"""Gated MLPs by structure: which projection reads the neurons that the gate and the up projection make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from espalier.model.layout import Matrix
from espalier.stream.capture import Capture


@dataclass(frozen=True)
class Gated:
    """Name of a gate, up or fused gate-and-up projection -> the down projection behind it."""

    readers: dict[str, Matrix]

    @classmethod
    def of(cls, block: nn.Module, matrices: Sequence[Matrix]) -> Gated:
        """Look at every module of a block that has an activation beside its linear maps.

        The last map reads N neurons; the maps before it make 2 N values from what the last one writes to.
        """
        siblings: dict[str, list[Matrix]] = {}
        for matrix in matrices:
            siblings.setdefault(matrix.local.rpartition(".")[0], []).append(matrix)
        readers: dict[str, Matrix] = {}
        for parent, (*makers, reader) in siblings.items():
            neurons = 2 * reader.shape[1]
            fits = makers and all(maker.shape == (neurons // len(makers), reader.shape[0]) for maker in makers)
            if fits and len(makers) <= 2 and any(map(_is_activation, block.get_submodule(parent).children())):
                readers |= {maker.name: reader for maker in makers}
        return cls(readers)

    def beyond(self, matrices: Sequence[Matrix]) -> list[Matrix]:
        """The readers of some matrices that are not among them."""
        found = {
            self.readers[matrix.name].name: self.readers[matrix.name]
            for matrix in matrices
            if matrix.name in self.readers
        }
        return [reader for name, reader in found.items() if name not in {matrix.name for matrix in matrices}]

    def norm(self, matrix: Matrix, capture: Capture) -> torch.Tensor | None:
        """The L2 norm of the neuron behind every output (O,); None outside of gated MLPs."""
        reader = self.readers.get(matrix.name)
        if reader is None:
            return None
        norm_N = capture.of(reader.name).statistics(reader.name).norm_I
        assert norm_N is not None
        return norm_N.repeat(matrix.shape[0] // len(norm_N))


def _is_activation(module: nn.Module) -> bool:
    """Activations of torch and of transformers live in modules named so; attention has none."""
    return type(module).__module__.rpartition(".")[2] in {"activation", "activations"}
