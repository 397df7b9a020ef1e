"""Inputs and outputs of a search, independent of who runs the trials: a service, or one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from espalier.recipe.spec import CompressionSpec

_TELLS_OF_THE_TRIAL: Final = frozenset({"numerical", "collapsed"})


def failed_by_its_spec(error_class: str | None, phase: str | None) -> bool:
    """Tell whether a trial failed because of its own spec, and not because of the machine or the model.

    `phase`: where it failed; the baseline measures the model as it is, whatever is tried.
    """
    return error_class in _TELLS_OF_THE_TRIAL and phase != "baseline"


@dataclass(frozen=True)
class Outcome:
    """A trial that is over."""

    spec: CompressionSpec
    report: Mapping[str, Any] | None
    """None where the numbers ran away or the model collapsed: that says something of what was tried."""


@dataclass(frozen=True)
class Trial:
    """What to run next."""

    spec: CompressionSpec
    label: str


@dataclass(frozen=True)
class Winner:
    """The end of a search: the result of one of the trials is the job's."""

    index: int
    """Of the outcome, in the order in which the trials were run."""
    objective: dict[str, Any]
    """The report's entry of the search: the bound, the chosen amounts, and in `trials` one row per trial in order."""


class Search(Protocol):
    """Turns the trials so far into the next one."""

    def next(self, outcomes: Sequence[Outcome]) -> Trial | Winner:
        """Return the next trial or the best of them; raises NothingKeptError where the search ends without a result."""

    def best(self, outcomes: Sequence[Outcome]) -> int | None:
        """Return the index of the best trial so far; None where none keeps the objective."""


def without_search(spec: CompressionSpec) -> CompressionSpec:
    """Return a spec without what is done once, with the result of the whole search."""
    return spec.unpublished.model_copy(update={"objective": None})


def increase(report: Mapping[str, Any]) -> float:
    """Return the relative increase of perplexity over the dense model, the largest of all measurements."""
    dense, compressed = report["dense"]["perplexity"], report["compressed"]["perplexity"]
    return max(float(compressed[name]) / float(dense[name]) - 1 for name in compressed)
