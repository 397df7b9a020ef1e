"""What the search of a target makes of its trials."""

from __future__ import annotations

from espalier.recipe.target import Target
from espalier.search.size import Cut, Tried
from workers.family.size_search import _on_one_clock


def test_a_worker_that_got_busy_does_not_make_a_cut_slow() -> None:
    tried = [Tried(Cut(4, 1000), 0.010, 0.5, 0.020), Tried(Cut(2, 0), 0.045, 0.2, 0.060), Tried(Cut(1, 0), None, None)]
    times = _on_one_clock(tried, Target(seconds_per_token=0.015))
    assert [trial.measured for trial in times] == [0.010, 0.015, None]
    assert _on_one_clock(tried, Target(parameters=5)) == tried
