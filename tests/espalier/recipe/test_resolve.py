"""A resolved spec leaves nothing to a default, and changes nothing that was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from espalier.recipe.resolution import resolve
from espalier.recipe.spec import CompressionSpec


@dataclass
class Model:
    max_positions: int
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"


def resolved(spec: dict[str, Any], max_positions: int = 1024) -> dict[str, Any]:
    parsed = CompressionSpec.model_validate({"prune": {"method": "magnitude", "sparsity": 0.5}} | spec)
    return resolve(parsed, Model(max_positions)).model_dump(mode="json")


@pytest.mark.parametrize(("max_positions", "tokens"), [(1024, 1024), (2048, 2048), (131_072, 2048)])
def test_sequences_are_as_long_as_the_model_reads_but_no_longer_than_2048(max_positions: int, tokens: int) -> None:
    spec = resolved({"retrain": {}}, max_positions)
    assert spec["calibration"]["sequence_length"] == tokens
    assert spec["retrain"]["sequence_length"] == tokens
    assert spec["evaluate"]["perplexity"][0]["sequence_length"] == tokens


def test_retraining_reads_what_calibration_reads() -> None:
    dataset = {"kind": "local", "path": "/text.txt", "column": "text"}
    spec = resolved({"calibration": {"dataset": dataset, "sequence_length": 128}, "retrain": {}})
    assert spec["retrain"]["dataset"] == dataset
    assert spec["retrain"]["sequence_length"] == 128


def test_what_was_said_stays() -> None:
    explicit = {
        "calibration": {"sequence_length": 64},
        "retrain": {"dataset": {"kind": "builtin", "split": "train"}, "sequence_length": 32},
        "evaluate": {"perplexity": [{"name": "mine", "sequence_length": 16}]},
        "output": {"dtype": "float32"},
    }
    spec = resolved(explicit)
    assert spec["calibration"]["sequence_length"] == 64
    assert spec["retrain"]["sequence_length"] == 32
    assert (spec["evaluate"]["perplexity"][0]["name"], spec["evaluate"]["perplexity"][0]["sequence_length"]) == (
        "mine",
        16,
    )
    assert spec["output"]["dtype"] == "float32"


def test_the_update_that_a_criterion_brings_is_written_out_and_stays_when_resolved_again() -> None:
    spec = resolved({"prune": {"method": "sparsegpt", "sparsity": 0.5}})
    assert (spec["prune"][0]["update"]["kind"], spec["prune"][0]["update"]["mask"]) == ("sparsegpt", "own")
    assert resolved({"prune": spec["prune"]})["prune"] == spec["prune"]
    other = resolved({"prune": {"method": "sparsegpt", "sparsity": 0.5, "update": {"kind": "least_squares"}}})
    assert other["prune"][0]["update"]["kind"] == "least_squares"


def test_the_pattern_tells_the_sparsity() -> None:
    spec = resolved({"prune": {"method": "magnitude", "pattern": {"kind": "nm", "n": 1, "m": 4}}})
    assert spec["prune"][0]["sparsity"] == 0.75


def test_measurements_get_names_and_the_output_the_source_type() -> None:
    spec = resolved({})
    assert spec["evaluate"]["perplexity"][0]["name"] == "python-docs"
    assert spec["output"]["dtype"] == "bfloat16"
    assert spec["retrain"] is None


@pytest.mark.parametrize(
    "spec",
    [
        {"prune": []},
        {"prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}, "reconstruct": {}},
    ],
)
def test_a_resolved_spec_is_a_spec_and_resolves_to_itself(spec: dict[str, Any]) -> None:
    once = resolved({"retrain": {}} | spec)
    assert resolved(once) == once
