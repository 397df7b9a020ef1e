"""An objective bisects: each trial halves what is open, within the budget of trials."""

from __future__ import annotations

import pytest

from espalier.recipe.spec import CompressionSpec
from espalier.search import search_for
from espalier.search.quality import QualitySearch, TriedSparsity


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([], 0.5),  # the spec's own sparsity first
        ([TriedSparsity(0.5, 0.01)], 0.725),  # kept: between it and the highest
        ([TriedSparsity(0.5, 0.2)], 0.25),  # lost: between none and it
        ([TriedSparsity(0.5, None)], 0.25),  # gave no model at all
        ([TriedSparsity(0.5, 0.01), TriedSparsity(0.725, 0.2)], 0.6125),
        ([TriedSparsity(0.5, 0.01), TriedSparsity(0.505, 0.2)], None),  # closer than the tolerance
        ([TriedSparsity(0.945, 0.01), TriedSparsity(0.5, 0.2)], None),  # one that lost below the best says nothing
        ([TriedSparsity(0.1, 0.2)] * 6, None),  # the budget is spent
    ],
)
def test_the_next_trial_halves_what_is_open(trials: list[TriedSparsity], expected: float | None) -> None:
    objective = {"max_relative_perplexity_increase": 0.05}
    spec = CompressionSpec.model_validate({"prune": {"method": "magnitude", "sparsity": 0.5}, "objective": objective})
    search = search_for(spec, None)
    assert isinstance(search, QualitySearch)
    assert search.next_sparsity(trials) == expected
