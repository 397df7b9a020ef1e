"""The work of a spec's phases, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from espalier.memory import work
from espalier.memory.work import training_steps, trials
from espalier.memory.work import works as count
from espalier.probe import ModelFacts, probe
from espalier.recipe.phases import PHASES, Phase
from espalier.recipe.resolution import resolve
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.library.demo_model import DEMO_MODEL

MEASURED = {"perplexity": [{"sequence_length": 64, "max_windows": 2}]}
TOKENS = 8 * 64
"""Of one optimizer step."""


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return probe(DEMO_MODEL)


def works(facts: ModelFacts, retrain: dict[str, Any], **fields: Any) -> dict[str, float]:
    spec = {
        "prune": {"method": "magnitude", "sparsity": 0.5},
        "calibration": {"samples": 4, "sequence_length": 64},
        "retrain": {"steps": 200, "learning_rate": 0.01, **retrain},
        "evaluate": MEASURED,
        **fields,
    }
    return count(resolve(CompressionSpec.model_validate(spec), facts), facts.shape, file_bytes=facts.bytes)


@pytest.mark.parametrize(
    ("retrain", "fields", "passes"),
    [
        # forward once, backward twice
        ({}, {}, 200 * 3),
        # five trials of a tenth
        ({"learning_rate": "auto"}, {}, 300 * 3),
        # and forward through the teacher
        ({"loss": "kl"}, {}, 200 * 4),
        ({"loss": "squarehead", "learning_rate": "auto"}, {}, 300 * 4),
        # every member trains, and one search is for all
        ({}, {"soup": {"members": 3}}, 600 * 3),
        ({"learning_rate": "auto"}, {"soup": {"members": 3}}, 700 * 3),
        # cycles share the steps, and each searches
        ({}, {"cycles": {"count": 2}}, 200 * 3),
        ({"learning_rate": "auto"}, {"cycles": {"count": 2}}, 300 * 3),
    ],
)
def test_retraining_counts_trials_teacher_and_members(
    facts: ModelFacts, retrain: dict[str, Any], fields: dict[str, Any], passes: int
) -> None:
    assert works(facts, retrain, **fields)["retraining"] == passes * TOKENS * 2 * facts.parameters


def test_every_cycle_prunes_recovers_and_measures_again(facts: ModelFacts) -> None:
    once, thrice = (works(facts, {}, reconstruct={}, **fields) for fields in ({}, {"cycles": {"count": 3}}))
    again = {"pruning", "reconstructing", "merging"}
    assert {name: thrice[name] for name in again} == {name: 3 * once[name] for name in again}
    assert {name: work for name, work in thrice.items() if name not in again} == {
        name: work for name, work in once.items() if name not in again
    }


def test_members_of_a_soup_are_written_and_measured_like_any_job(facts: ModelFacts) -> None:
    alone, soup = works(facts, {}), works(facts, {}, soup={"members": 3})
    for phase in ("evaluating", "exporting", "uploading"):
        assert soup[phase] == 4 * alone[phase]
    inside = works(facts, {}, soup={"members": 3}, cycles={"count": 2})
    assert inside["exporting"] == alone["exporting"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (7, (0, 4)),  # not even one
        (8, (1, 4)),
        (40, (5, 4)),
        (200, (5, 20)),  # half of the training again
        (500, (5, 20)),
        (1000, (5, 20)),  # a tenth
        (4000, (5, 80)),
    ],
)
def test_trials_are_at_most_five_of_a_tenth_or_in_the_long_run_a_fiftieth(
    steps: int, expected: tuple[int, int]
) -> None:
    assert trials(steps) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retrain": {"steps": 200, "learning_rate": 0.01}}, 200),
        ({"retrain": {"steps": 200, "rate_factor": 0.316}}, 200),
        ({"retrain": {"steps": 200}}, 300),
        ({"retrain": {"steps": 200}, "soup": {"members": 3}}, 700),  # the members share what the trials have found
        ({"retrain": {"steps": 82}, "cycles": {"count": 2}}, 82 + 2 * 5 * 4),  # 41 steps each, and trials of four
        ({"retrain": {"steps": 82}, "cycles": {"count": 2}, "soup": {"members": 2}}, 2 * 82 + 2 * 5 * 4),
        ({}, 0),
    ],
)
def test_steps_are_those_of_all_turns_members_and_trials(fields: dict[str, Any], expected: int) -> None:
    spec = CompressionSpec.model_validate({"prune": {"method": "magnitude", "sparsity": 0.5}, **fields})
    assert training_steps(spec) == expected


@pytest.mark.parametrize(("field", "wanted"), [("retrain", True), (None, True), ("reconstruct", False)])
def test_a_phase_that_nothing_is_said_of_looks_at_every_weight_once(
    field: str | None, wanted: bool, facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = works(facts, {})
    quantizing = replace(PHASES[-1], name=cast(Phase, "quantizing"), field=field)
    monkeypatch.setattr(work, "PHASES", (*PHASES[:-1], quantizing))
    assert works(facts, {}) == (before | {"quantizing": facts.shape.weights} if wanted else before)


def test_a_model_that_only_recovers_is_not_pruned(facts: ModelFacts) -> None:
    assert not {"calibrating", "pruning"} & set(works(facts, {}, prune=[]))
    assert "publishing" not in works(facts, {})
