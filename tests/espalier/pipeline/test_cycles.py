"""Pruning and recovery by turns on small random models: what is pruned stays pruned, and a stopped run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.messages import Checkpoint, Message, Metric
from espalier.model.weights import Weights
from espalier.recipe.steps.recovery import Cycles
from espalier.retrain.averaging import mean
from tests.fixtures.library.jobs import KilledError, local_job, write_texts, write_topics
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, recovery
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("text") / "train.txt", 6)


def _cycles(folder: Path, model_dir: Path, text: Path, **spec: Any) -> Recovery:
    retrain = {"steps": 7, "batch_size": 2, "rank": 2, "learning_rate": 0.01}
    return recovery(folder, model_dir, text, **{"retrain": retrain, "cycles": {"count": 3}, **spec})


def test_schedules_rise_to_the_target_and_split_the_steps() -> None:
    rising = {
        "geometric": [1 - 0.3 ** (1 / 3), 1 - 0.3 ** (2 / 3), 0.7],  # the same share of the rest, three times
        "linear": [0.7 / 3, 1.4 / 3, 0.7],
        "cubic": [0.7 * (1 - (2 / 3) ** 3), 0.7 * (1 - (1 / 3) ** 3), 0.7],
    }
    for schedule, expected in rising.items():
        cycles = Cycles(count=3, schedule=schedule)  # type: ignore[arg-type]
        assert [cycles.sparsity(number, 0.7) for number in (1, 2, 3)] == pytest.approx(expected)
        assert cycles.sparsity(3, 0.7) == 0.7
    assert [Cycles(count=3).steps(number, 80) for number in (1, 2, 3)] == [26, 26, 28]


@pytest.mark.parametrize(
    "prune",
    [
        {"method": "wanda"},
        {"method": "random"},  # would draw a mask of its own in every cycle
        {"method": "magnitude", "pattern": {"kind": "unstructured", "scope": "global"}},
        {"method": "wanda", "pattern": {"kind": "group", "g": 4}},
    ],
    ids=["wanda", "random", "global", "group"],
)
def test_masks_are_nested_and_the_last_sparsity_is_exact(
    tmp_path: Path, model_dir: Path, text: Path, prune: dict[str, Any]
) -> None:
    job = _cycles(tmp_path / "job", model_dir, text, prune=[{**prune, "sparsity": 0.75}])
    session = job.recover()
    assert_zeros_hold(session.weights, session)
    earlier: dict[str, torch.Tensor] = {}
    shares = []
    for number in (1, 2, 3):
        folder = job.folder / "checkpoints" / "pruning"
        weights = Weights(model_dir, sorted(folder.glob(f"cycle-{number}--block-*.safetensors")))
        masks = {m.name: weights.mask(m.name, num_inputs=m.shape[1]) for m in session.streamed.layout.matrices}
        assert all(not (masks[name] & ~mask).any() for name, mask in earlier.items()), "something came back"
        kept = sum(int(mask.sum()) for mask in masks.values())
        shares.append(1 - kept / sum(mask.numel() for mask in masks.values()))
        earlier = masks
    assert shares[0] < shares[1] < shares[2] == pytest.approx(0.75, abs=1e-3)
    rows = session.results.recovery["cycles"]
    assert [row["cycle"] for row in rows] == [1, 2, 3]
    assert [row["steps"] for row in rows] == [2, 2, 3]
    turns = [done.turn for done in session.results.phases if done.phase == "pruning"]
    assert turns == ["cycle-1", "cycle-2", "cycle-3"]


def test_a_whole_job_reports_every_cycle(tmp_path: Path, model_dir: Path) -> None:
    retrain = {"steps": 6, "batch_size": 2, "rank": 2, "learning_rate": 0.01}
    job = local_job(tmp_path / "job", model_dir, write_texts(tmp_path), retrain=retrain, cycles={"count": 2})
    report = job.attempt().report
    assert [(row["cycle"], row["steps"]) for row in report["cycles"]] == [(1, 3), (2, 3)]
    assert all(row["perplexity"]["pruning"]["text"] > 1 for row in report["cycles"])
    turns = [(row["name"], row.get("turn")) for row in report["phases"]]
    assert [turn for name, turn in turns if name == "retraining"] == ["cycle-1", "cycle-2"]
    assert dict(turns)["evaluating"] is None
    assert report["sparsity"]["achieved"] == 0.5
    series = {message.name for message in job.messages if isinstance(message, Metric)}
    assert {"cycle-1.training_loss", "cycle-2.training_loss"} <= series


@pytest.mark.parametrize("kill_at", ["retraining/cycle-2-member-2--trained", "merging/cycle-2--block-00000"])
def test_every_cycle_starts_from_the_soup_of_the_last_one(
    tmp_path: Path, model_dir: Path, text: Path, kill_at: str
) -> None:
    fields: dict[str, Any] = {"cycles": {"count": 2}, "soup": {"members": 2, "vary": "weight_decay"}}
    whole = _cycles(tmp_path / "whole", model_dir, text, **fields)
    session = whole.recover()
    assert_zeros_hold(session.weights, session)

    def weights(*wanted: str) -> Weights:
        names = [f"checkpoints/{item}" for item in wanted]
        paths = [path for name in names for path in sorted(whole.folder.glob(f"{name}--block-*.safetensors"))]
        return Weights(model_dir, paths)

    pruned = weights("pruning/cycle-1")
    souped = weights("pruning/cycle-1", "merging/cycle-1")
    members = [weights("pruning/cycle-1", f"merging/cycle-1-member-{number}") for number in (1, 2)]
    again = weights("pruning/cycle-1", "merging/cycle-1", "pruning/cycle-2")
    for matrix in session.streamed.layout.matrices:
        averaged = souped.get(matrix.tensor)
        assert not torch.equal(averaged, pruned.get(matrix.tensor))
        assert torch.equal(averaged, mean([member.get(matrix.tensor) for member in members]).to(averaged.dtype))
        kept = matrix.view(again.mask(matrix.name, num_inputs=matrix.shape[1]))
        assert torch.equal(again.get(matrix.tensor), averaged * kept)
    rows = session.results.recovery["cycles"]
    assert [(row["steps"], len(row["soup"]["members"])) for row in rows] == [(3, 2), (4, 2)]
    assert "soup" not in session.results.recovery

    killed = _cycles(tmp_path / "killed", model_dir, text, **fields)
    with pytest.raises(KilledError):
        killed.recover(kill_at=_named(*kill_at.split("/")))
    resumed = killed.recover()
    assert all(torch.equal(resumed.weights.get(name), session.weights.get(name)) for name in session.weights.names)
    assert resumed.results.recovery == session.results.recovery


def test_members_of_one_cycle_read_the_same_text(tmp_path: Path, model_dir: Path, text: Path) -> None:
    """What differs is the one thing that is varied: here nothing that the first step could see."""
    soup = {"members": 2, "vary": "weight_decay"}
    job = _cycles(tmp_path / "job", model_dir, text, cycles={"count": 2}, soup=soup)
    job.recover()
    first = {
        message.name.removesuffix(".training_loss"): message.value
        for message in job.messages
        if isinstance(message, Metric) and message.name.endswith("training_loss") and message.step == 0
    }
    assert first["cycle-1-member-1"] == first["cycle-1-member-2"] != first["cycle-2-member-1"]
    assert first["cycle-2-member-1"] == first["cycle-2-member-2"]


def _named(phase: str, name: str) -> Any:
    def check(message: Message) -> bool:
        return isinstance(message, Checkpoint) and (message.phase, message.name) == (phase, name)

    return check


@pytest.mark.deep
@pytest.mark.parametrize(
    "kill_at",
    [
        _named("pruning", "cycle-2--block-00000"),
        _named("retraining", "cycle-2--trained"),
        _named("merging", "cycle-2--block-00001"),
        _named("reconstructing", "cycle-3--block-00000"),
    ],
    ids=["pruning", "retraining", "merging", "reconstructing"],
)
def test_a_killed_run_goes_on_in_its_cycle(tmp_path: Path, model_dir: Path, text: Path, kill_at: Any) -> None:
    reconstruct = {"reconstruct": {"epochs": 1, "learning_rate": 0.001}}
    whole = _cycles(tmp_path / "whole", model_dir, text, **reconstruct).recover()
    killed = _cycles(tmp_path / "killed", model_dir, text, **reconstruct)
    with pytest.raises(KilledError):
        killed.recover(kill_at=kill_at)
    again = killed.recover()
    assert all(torch.equal(again.weights.get(name), whole.weights.get(name)) for name in whole.weights.names)
    assert again.results.recovery == whole.results.recovery
