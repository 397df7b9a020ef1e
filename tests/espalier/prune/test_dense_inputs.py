"""Statistics of the dense model: stored once, read by every sparsity, and no bit differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from espalier.checkpoint_names import CheckpointName, Kind
from espalier.memory.pruning import NUM_SHARDS
from espalier.messages import Checkpoint
from espalier.prune import inputs
from espalier.recipe.hashes import phase_key
from tests.espalier.prune.forwards import count_forwards
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import write_tiny_model

STEPS: dict[str, dict[str, Any]] = {
    "wanda": {"method": "wanda", "sparsity": 0.5},
    "dass": {"method": "dass", "sparsity": 0.5, "budget": {"kind": "owl"}},
    "sparsegpt": {"method": "sparsegpt", "sparsity": 0.5},
    "global": {
        "method": "wanda",
        "sparsity": 0.5,
        "pattern": {"kind": "unstructured", "scope": "global"},
        "update": {"kind": "least_squares"},
    },
    "fewer targets": {"method": "ria", "sparsity": 0.5, "targets": {"exclude": ["down_proj"]}},
}


def _model(job: LocalJob) -> bytes:
    return (job.artifact / "model.safetensors").read_bytes()


@pytest.mark.deep
@pytest.mark.parametrize(("family", "step"), [*(("llama", step) for step in STEPS), ("mixtral", "sparsegpt")])
def test_stored_statistics_give_the_bytes_of_a_walk_that_gathers_its_own(
    family: str, step: str, tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = write_tiny_model(tmp_path / "model", family)
    stored = local_job(tmp_path / "stored", model_dir, texts, propagation="dense", prune=STEPS[step])
    stored.attempt()
    monkeypatch.setattr(inputs, "MAX_BYTES", 0)
    walked = local_job(tmp_path / "walked", model_dir, texts, propagation="dense", prune=STEPS[step])
    walked.attempt()
    assert _model(stored) == _model(walked)
    assert [row.error_after for row in stored.layers] == [row.error_after for row in walked.layers]
    names = [{message.name for message in job.messages if isinstance(message, Checkpoint)} for job in (stored, walked)]
    assert {name.rpartition("-")[0] for name in names[0] - names[1]} <= {"norms-inputs", "gram-inputs"}
    assert len(names[0]) > len(names[1])


@pytest.mark.parametrize(("method", "forwards"), [("wanda", 2), ("sparsegpt", 0)])
def test_the_other_sparsity_runs_no_calibration(
    method: str, forwards: int, tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(name: str, sparsity: float) -> LocalJob:
        prune = {"method": method, "sparsity": sparsity}
        return local_job(tmp_path / name, llama, texts, propagation="dense", prune=prune)

    first, second, alone = job("first", 0.5), job("second", 0.7), job("alone", 0.7)
    first.attempt()
    alone.attempt()
    second.stored = {key: item for key, item in first.stored.items() if key[0] == "calibrating"}
    # What the first one stored lies where a worker would have put it.
    (second.folder / "checkpoints").mkdir(parents=True)
    (first.folder / "checkpoints" / "calibrating").rename(second.folder / "checkpoints" / "calibrating")
    seen: list[nn.Module] = count_forwards(monkeypatch)
    second.attempt()
    assert len(seen) == 2 + NUM_SHARDS * forwards, "the certificate, and the few tokens that errors take"
    assert _model(second) == _model(alone) != _model(first)


def _key(spec: dict[str, Any], statistics: str = "norms") -> str | None:
    name = CheckpointName(Kind.INPUTS, statistics=statistics, block=0)
    return phase_key("calibrating", name, revision="r", data={}, spec=spec, made_by={})


def _spec(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"calibration": {"seed": 0}, "propagation": "dense", "prune": list(steps), "output": {}, **more}


def test_every_method_and_sparsity_has_the_same_statistics_and_no_other_model_or_text() -> None:
    wanda, ria = {"method": "wanda", "sparsity": 0.5}, {"method": "ria", "sparsity": 0.7, "pattern": {"kind": "nm"}}
    depth = {"pattern": {"kind": "depth"}, "sparsity": 0.25}
    assert _key(_spec(wanda)) == _key(_spec(ria, reconstruct={}, retrain={"steps": 3}, evaluate={"tasks": ["arc"]}))
    others = [
        _key(_spec(wanda), "gram"),
        _key(_spec(wanda, calibration={"seed": 1})),
        _key(_spec(wanda, compute_dtype="bfloat16")),
        _key(_spec({**wanda, "targets": {"exclude": ["x"]}})),
        _key(_spec(depth, wanda)),
        _key(_spec({**depth, "sparsity": 0.5}, wanda)),
        _key(_spec(wanda, cycles={"count": 2})),
    ]
    assert len({*others, _key(_spec(wanda))}) == len(others) + 1
