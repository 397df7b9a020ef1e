"""Tiny layers for the contracts of methods, with exactly the statistics that a method declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch

from espalier.methods.base import LayerProblem, MaskProblem, Pattern
from espalier.methods.statistic import Declared, Statistic, Statistics, readers_among
from espalier.model.numerics import generator
from espalier.recipe.steps.prune import PATTERNS
from espalier.stream.statistics import InputAccumulator
from tests.contracts.cells import variants

OUTPUTS, INPUTS = 8, 32
EVERY_PATTERN: Final = [kind.model_validate(choice) for kind in PATTERNS.values() for choice in variants(kind, "kind")]


class Recorded(Mapping[type[Statistic], torch.Tensor]):
    """Statistics that note which of them were read."""

    def __init__(self, values: Statistics) -> None:
        self.values_of = dict(values)
        self.read: set[type[Statistic]] = set()

    def __getitem__(self, kind: type[Statistic]) -> torch.Tensor:
        self.read.add(kind)
        return self.values_of[kind]

    def __iter__(self) -> Iterator[type[Statistic]]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def weight() -> torch.Tensor:
    """Weights without ties."""
    return torch.randn(OUTPUTS, INPUTS, generator=generator(0, "weight"))


def inputs(width: int = INPUTS, tokens: int = 128) -> torch.Tensor:
    """Correlated inputs of different norms."""
    draws = generator(0, "inputs", width)
    mix_II = torch.eye(width) + 0.4 * torch.randn(width, width, generator=draws)
    return torch.randn(tokens, width, generator=draws) @ mix_II * (0.2 + torch.rand(width, generator=draws))


def statistics(declared: Declared, input_TI: torch.Tensor, *, read: bool = True, outputs: int = OUTPUTS) -> Statistics:
    """What a walk hands to a method that declares these, and nothing else.

    `read`: another matrix reads what the outputs become, so that statistics taken there are known, too.
    """
    known = InputAccumulator(declared, sample_tokens=0)
    known.add(input_TI)
    values = {kind: value for kind, value in known.statistics("own").items() if kind in declared}
    for kind in readers_among(declared) if read else ():
        there = InputAccumulator((kind.of,), sample_tokens=0)
        there.add(inputs(outputs).to(input_TI.device))
        values[kind] = kind.at_outputs(there.statistics("reader")[kind.of], num_outputs=outputs)
    return values


def problem(declared: Declared, *, seed: int = 0, read: bool = True) -> LayerProblem:
    """A layer as a criterion sees it."""
    return LayerProblem(weight(), Recorded(statistics(declared, inputs(), read=read)), generator(seed))


def share_of(pattern: Pattern) -> float:
    """What the pattern prunes, or half."""
    implied = pattern.implied_sparsity()
    return 0.5 if implied is None else implied


def masked(declared: Declared, pattern: Pattern, *, sparsity: float | None = None, rows: int = OUTPUTS) -> MaskProblem:
    """A layer as optimizers and solvers see it, pruned by Wanda's score."""
    fraction, weight_OI = share_of(pattern) if sparsity is None else sparsity, weight()[:rows]
    score_OI = weight_OI.abs() * inputs().norm(dim=0)
    mask_OI = pattern.keep(score_OI, sparsity=fraction)
    at_outputs = Recorded(statistics(declared, inputs()))
    return MaskProblem(weight_OI, at_outputs, generator(0), mask_OI, score_OI, pattern, fraction)


def frozen(*tensors: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors beside copies of them, for `untouched`."""
    return [(tensor, tensor.clone()) for tensor in tensors]


def untouched(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Tell whether nothing was changed in place."""
    return all(torch.equal(tensor, copy) for tensor, copy in pairs)


def tensors_of(layer: LayerProblem) -> list[torch.Tensor]:
    """All that a method is handed and must leave alone."""
    own = [layer.mask_OI, layer.score_OI] if isinstance(layer, MaskProblem) else []
    return [layer.weight_OI, *own, *layer.statistics.values()]


def error(layer: MaskProblem, changed_OI: torch.Tensor) -> torch.Tensor:
    """||X (w - w')^T||^2 of every row, in float64."""
    lost_OI = (layer.weight_OI.double() - changed_OI.double()) @ inputs().double().T
    return lost_OI.square().sum(dim=1)
