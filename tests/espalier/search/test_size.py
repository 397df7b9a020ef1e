"""What the search of a target makes of its trials."""

from __future__ import annotations

import pytest

from espalier.families.sizes import Part, Sizes
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Target
from espalier.search import NothingKeptError, Outcome, Trial, Winner
from espalier.search.size import SizeSearch, on_one_clock
from espalier.search.split import Candidate, CandidateTrial


def test_a_worker_that_got_busy_does_not_make_a_cut_slow() -> None:
    tried = [
        CandidateTrial(Candidate(4, 1000), 0.010, 0.5, 0.020),
        CandidateTrial(Candidate(2, 0), 0.045, 0.2, 0.060),
        CandidateTrial(Candidate(1, 0), None, None),
    ]
    times = on_one_clock(tried, Target(seconds_per_token=0.015))
    assert [trial.measured for trial in times] == [0.010, 0.015, None]
    assert on_one_clock(tried, Target(parameters=5)) == tried


def outcome(spec: CompressionSpec, parameters: int, perplexity: float | None) -> Outcome:
    sides = {"dense": {"parameters": 52_000, "perplexity": {"t": 10.0}}}
    report = {**sides, "compressed": {"parameters": parameters, "perplexity": {"t": perplexity}}}
    return Outcome(spec, report if perplexity else None)


def search(retrain: dict[str, int] | None = None) -> SizeSearch:
    prune = [{"method": "angular", "sparsity": 0.5}]
    spec = CompressionSpec.model_validate({"prune": prune, "retrain": retrain, "objective": {"parameters": 36_000}})
    assert isinstance(spec.objective, Target)
    parts = (Part(kind="depth", count=32, parameters=32_000),)
    return SizeSearch(spec, spec.objective, Sizes(parameters=52_000, head=20_000, tensors=300, parts=parts))


def run_to_the_end(one: SizeSearch, *, recovered: float | None) -> tuple[list[Outcome], Winner]:
    outcomes: list[Outcome] = []
    while isinstance(step := one.next(outcomes), Trial):
        assert step.spec.objective is None
        outcomes.append(outcome(step.spec, 35_000, recovered if step.spec.retrain else 12.0))
    return outcomes, step


def test_the_best_cut_is_carried_out_with_recovery_once_and_is_the_winner() -> None:
    outcomes, winner = run_to_the_end(search({"steps": 4}), recovered=11.0)
    assert [bool(each.spec.retrain) for each in outcomes] == [False] * (len(outcomes) - 1) + [True]
    assert winner.index == len(outcomes) - 1
    assert len(winner.objective["trials"]) == len(outcomes) - 1
    assert winner.objective["removed"] == {"depth": 16}


def test_without_recovery_the_best_trial_is_the_winner() -> None:
    outcomes, winner = run_to_the_end(search(), recovered=None)
    assert outcomes[winner.index].report is not None
    assert len(winner.objective["trials"]) == len(outcomes)


def test_a_best_cut_that_gives_no_model_once_it_is_recovered_ends_the_search() -> None:
    with pytest.raises(NothingKeptError, match="gave no model after the spec's recovery"):
        run_to_the_end(search({"steps": 4}), recovered=None)
