"""A job belongs to the smallest worker class that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.services.admission import routing
from app.services.admission.probe_cache import probe_cached
from app.settings import Settings
from espalier.memory.constants import LIBRARIES_BYTES
from espalier.probe import ModelFacts, probe
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.library.demo_model import DEMO_MODEL

SPEC = CompressionSpec.model_validate(
    {"prune": {"method": "magnitude", "sparsity": 0.5}, "calibration": {"samples": 4, "sequence_length": 32}}
)


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return probe(DEMO_MODEL)


def settings(classes: str) -> Settings:
    return Settings(worker_classes=classes)


def test_the_first_class_that_holds_a_job_takes_it_and_the_last_one_what_none_holds(facts: ModelFacts) -> None:
    needed = routing.memory_bytes(SPEC, facts)
    for small, expected in ((needed, "cpu"), (needed - 1, "gpu")):
        assert routing.worker_class(settings(f"cpu={small},gpu={2 * needed}"), SPEC, facts) == expected
    assert routing.worker_class(settings("cpu=1,gpu=2"), SPEC, facts) == "gpu"
    assert routing.worker_class(settings("cpu=1,gpu=2"), None, None) == "cpu"
    assert routing.worker_class(settings("default"), SPEC, facts) == "default"


@pytest.mark.parametrize(
    ("retrain", "bytes_each"),
    [
        ({"trainable": ["norms"]}, 4),
        ({"trainable": ["norms"], "loss": "kl"}, 8),
        ({"method": "full"}, 21),
        ({"method": "full", "loss": "squarehead"}, 25),
    ],
)
def test_retraining_holds_the_whole_model_and_what_its_method_and_loss_keep(
    facts: ModelFacts, retrain: dict[str, Any], bytes_each: int
) -> None:
    prune = {"method": "wanda", "sparsity": 0.5}
    spec = CompressionSpec.model_validate({"prune": prune, "retrain": retrain, "calibration": SPEC.calibration})
    held = bytes_each * facts.parameters
    needed = routing.memory_bytes(spec, facts)
    assert needed > LIBRARIES_BYTES + held
    assert needed > routing.memory_bytes(SPEC, facts)
    assert routing.worker_class(settings(f"cpu={needed - 1},gpu={needed}"), spec, facts) == "gpu"


def test_a_job_that_trains_nothing_is_routed_by_the_whole_model_that_measuring_holds(facts: ModelFacts) -> None:
    large = ModelFacts.model_validate(facts.model_dump() | {"parameters": 8 * 10**9})
    assert routing.worker_class(settings("cpu=16e9,gpu=80e9"), SPEC, large) == "gpu"
    halves = SPEC.model_copy(update={"compute_dtype": "bfloat16"})
    assert routing.memory_bytes(halves, large) < 20e9 < routing.memory_bytes(SPEC, large)


@pytest.mark.parametrize("classes", ["", "cpu=2,gpu=1", "=5", "cpu=x"])
def test_classes_that_make_no_sense_are_refused(classes: str) -> None:
    with pytest.raises(ValueError, match=r"smallest first|number of bytes|name of its own"):
        settings(classes)


def test_a_job_moves_on_when_its_model_turns_out_larger(facts: ModelFacts) -> None:
    assert routing.larger_class(settings("cpu=1,gpu=2"), "cpu", SPEC, facts) == "gpu"
    assert routing.larger_class(settings("cpu=1,gpu=2"), "gpu", SPEC, facts) is None
    assert routing.larger_class(settings("cpu=1,gpu=2"), "by-hand", SPEC, facts) is None
    assert routing.larger_class(settings("cpu=1e12,gpu=2e12"), "cpu", SPEC, facts) is None


def test_a_folder_is_probed_again_when_a_file_is_another(tmp_path: Path) -> None:
    for file in DEMO_MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    first = probe_cached(tmp_path)
    assert probe_cached(tmp_path) is first
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert probe_cached(tmp_path).licence == "mit"
