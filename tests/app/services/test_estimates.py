"""The work of a spec's phases, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.services.plans import estimates
from espalier.probe import ModelFacts, probe
from espalier.recipe.resolution import resolve
from espalier.recipe.spec import CompressionSpec

MODEL = Path(__file__).parents[3] / "app/cli/demo_model"
MEASURED = {"perplexity": [{"sequence_length": 64, "max_windows": 2}]}
TOKENS = 8 * 64
"""Of one optimizer step."""


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return probe(MODEL)


def works(facts: ModelFacts, retrain: dict[str, Any], **fields: Any) -> dict[str, float]:
    spec = {
        "prune": {"method": "magnitude", "sparsity": 0.5}, "calibration": {"samples": 4, "sequence_length": 64},
        "retrain": {"steps": 200, "learning_rate": 0.01, **retrain}, "evaluate": MEASURED, **fields,
    }  # fmt: skip
    return estimates.works(resolve(CompressionSpec.model_validate(spec), facts), facts)


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
