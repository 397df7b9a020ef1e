"""Searches as pure functions: from the outcomes of trials to the next trial; and the members of a soup."""

from __future__ import annotations

from espalier.errors import NothingKeptError
from espalier.families.sizes import Sizes
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Objective, Target
from espalier.search.quality import QualitySearch
from espalier.search.size import SizeSearch
from espalier.search.trials import Outcome, Search, Trial, Winner

__all__ = ["NothingKeptError", "Outcome", "Search", "Trial", "Winner", "search_for"]


def search_for(spec: CompressionSpec, sizes: Sizes | None) -> Search | None:
    """Return the search that a resolved spec asks for; None for a spec without an objective.

    `sizes`: of the model; a search for a size or a time needs them.
    """
    match spec.objective:
        case Objective() as objective:
            return QualitySearch(spec, objective)
        case Target() as target:
            if sizes is None:
                raise ValueError("a search for a size needs the sizes of the model's parts")
            return SizeSearch(spec, target, sizes)
        case _:
            return None
