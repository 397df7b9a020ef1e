"""Files of stored statistics: which statistics lie in one file, and its name, so that jobs share it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from espalier.methods.statistic import ReaderStatistic, Statistic, gathered, readers_among
from espalier.methods.statistics.neuron_norms import NeuronNorms

IN_EVERY_FILE: Final[tuple[type[ReaderStatistic], ...]] = (NeuronNorms,)
"""Statistics that input norms imply cost nothing: they lie in the file whether the step reads them or not."""


def kinds(declared: Iterable[type[Statistic]]) -> list[type[Statistic]]:
    """Return the statistics in the file of a step that declares these."""
    declared = list(declared)
    inputs = gathered(declared)
    known = {*inputs, *(follows for kind in inputs for follows in kind.implies)}
    return [*inputs, *readers_among([*(kind for kind in IN_EVERY_FILE if kind.of in known), *declared])]


def label(declared: Iterable[type[Statistic]]) -> str:
    """Return the part of the file names that tells the statistics: `norms`, `gram`."""
    return "-".join(kind.name for kind in kinds(declared) if kind not in IN_EVERY_FILE)
