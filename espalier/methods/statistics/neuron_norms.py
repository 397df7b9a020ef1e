"""Norms of gated neurons: how loudly the projection after a gate hears what each output of the maps before it makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from espalier.methods.statistic import AnyMap, InputStatistic, ReaderStatistic
from espalier.methods.statistics.input_norms import InputNorms

if TYPE_CHECKING:
    from torch import Tensor, nn


class NeuronNorms(ReaderStatistic):
    """||Z_i||_2 of the neuron behind every output of a gate or up projection, float64 (O,); Z is what `down` reads."""

    name: ClassVar[str] = "neurons"
    of: ClassVar[type[InputStatistic]] = InputNorms
    absent: ClassVar[tuple[str, str]] = (
        "no_gated_neurons",
        "No gated MLP was found in {block}: `{method}` scores all of its matrices by their inputs.",
    )

    @classmethod
    def readers(cls, block: nn.Module, matrices: Sequence[AnyMap]) -> dict[str, AnyMap]:
        """Find down projections by structure: the last of the maps of a module that has an activation beside them.

        It reads N neurons; the one or two maps before it make 2 N values from what it writes to.
        """
        siblings: dict[str, list[AnyMap]] = {}
        for matrix in matrices:
            siblings.setdefault(matrix.local.rpartition(".")[0], []).append(matrix)
        readers: dict[str, AnyMap] = {}
        for parent, (*makers, reader) in siblings.items():
            neurons = 2 * reader.shape[1]
            fits = makers and all(maker.shape == (neurons // len(makers), reader.shape[0]) for maker in makers)
            if fits and len(makers) <= 2 and any(map(_is_activation, block.get_submodule(parent).children())):
                readers |= {maker.name: reader for maker in makers}
        return readers

    @classmethod
    def at_outputs(cls, value: Tensor, *, num_outputs: int) -> Tensor:
        """Repeat the norms where gate and up are one matrix."""
        return value.repeat(num_outputs // len(value))


def _is_activation(module: nn.Module) -> bool:
    """Activations of torch and of transformers live in modules named so; attention has none."""
    return type(module).__module__.rpartition(".")[2] in {"activation", "activations"}
