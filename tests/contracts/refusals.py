"""The choices of a prune step that do not go together: what is refused is on this list, and nothing else is.

A newcomer that refuses for a reason of its own adds a row; one that refuses as its neighbours do needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from espalier.methods.base import Axes
from espalier.methods.statistics.gram import Gram


@dataclass(frozen=True)
class Refusal:
    """One reason to refuse a choice beside others."""

    at: str
    """The field at fault."""
    methods: frozenset[str]
    """The methods that must refuse so; a newcomer may."""
    when: Callable[[Axes], bool]
    """The choices that are refused beside them."""
    part: str
    """Words of what is said."""


def _moves_units(axes: Axes) -> bool:
    """Whole units go together: no single weight has a budget of its own."""
    return axes.pattern.line((1, 1)) is None


def _dictates_shares(axes: Axes) -> bool:
    return axes.pattern.levels() is not None or axes.pattern.implied_sparsity() is not None


def _scope_of_the_model(axes: Axes) -> bool:
    return axes.pattern.spans_model


def _undoes_an_optimizer(axes: Axes) -> bool:
    return axes.optimizer is not None and getattr(axes.solver, "mask", None) == "own"


_OPTIMIZERS: Final = frozenset({"sparsefw", "sparseswaps"})
REFUSALS: Final = (
    # n:m keeps a count in every group, inside of which LAMP orders weights as magnitude does.
    Refusal("method", frozenset({"lamp"}), lambda axes: axes.pattern.levels() is not None, "inside groups of n:m"),
    # The Gram matrices of the whole model would have to be held at once.
    Refusal(
        "pattern",
        frozenset({"unstructured"}),
        lambda axes: axes.pattern.spans_model and Gram in axes.criterion.statistics,
        "Gram matrices",
    ),
    # One threshold over the model is a budget by itself.
    Refusal(
        "budget",
        frozenset({"erdos_renyi", "lamp", "owl", "per_layer"}),
        _scope_of_the_model,
        "the global scope spreads",
    ),
    # n of m is a share already; only OWL's can be followed, by moving n.
    Refusal("budget", frozenset({"erdos_renyi", "lamp", "per_layer"}), _dictates_shares, "the pattern dictates"),
    # Densities of single weights say nothing of units.
    Refusal("budget", frozenset({"erdos_renyi", "lamp"}), _moves_units, "counts single weights"),
    Refusal("optimizer", _OPTIMIZERS, _moves_units, "exchanges single weights"),
    # A solver that looks for its own mask would undo the optimizer's.
    Refusal(
        "optimizer",
        _OPTIMIZERS,
        lambda axes: axes.solver is not None and axes.solver.chooses_mask,
        "the update chooses the mask itself",
    ),
    Refusal("update", frozenset({"sparsegpt"}), _undoes_an_optimizer, "would undo the mask optimizer"),
)


def _name_at(axes: Axes, field: str) -> str | None:
    """The method chosen for a field."""
    method = getattr(axes, {"method": "criterion", "update": "solver"}.get(field, field))
    return None if method is None else str(method.model_dump()["method" if field == "method" else "kind"])


def rows_for(axes: Axes) -> list[Refusal]:
    """The rows that choices fall under."""
    return [row for row in REFUSALS if row.when(axes) and _name_at(axes, row.at) is not None]


def must_refuse(axes: Axes) -> list[Refusal]:
    """Those of them that name the method at fault."""
    return [row for row in rows_for(axes) if _name_at(axes, row.at) in row.methods]
