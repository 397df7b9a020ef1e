"""The learning rate that nobody has asked for: what it costs, what is told, and that a stopped search goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from espalier.memory import work
from espalier.messages import Checkpoint, Message
from espalier.recipe.steps.retrain import Retrain
from espalier.retrain import rate_search
from espalier.retrain.rate_grid import MIN_GAIN_FRACTION, factor
from espalier.retrain.train import Trainer, TrainingPoint
from tests.fixtures.library.jobs import KilledError
from tests.fixtures.library.recovery import Recovery, recovery, save_every_step


@pytest.fixture
def advanced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every step that any trainer takes: how long its run is to be."""
    seen: list[int] = []
    advance = Trainer.advance

    def counted(trainer: Trainer) -> TrainingPoint:
        seen.append(trainer.plan.steps)
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", counted)
    return seen


def _run(folder: Path, llama: Path, texts: Path, *, steps: int = 40, **spec: Any) -> Recovery:
    retrain = {"steps": steps, "batch_size": 2, "trainable": ["norms"], **spec.pop("retrain", {})}
    return recovery(folder, llama, texts / "train.txt", retrain=retrain, **spec)


def test_trials_cost_at_most_half_of_the_training_and_are_told(
    tmp_path: Path, llama: Path, texts: Path, advanced: list[int]
) -> None:
    session = _run(tmp_path, llama, texts).recover()
    protocol = session.results.protocol["retraining"]
    trials = protocol["rate_search"]["trials"]
    assert 3 <= len(trials) <= work.MAX_TRIALS
    assert advanced.count(40) == 40
    assert advanced.count(4) == 4 * len(trials) <= 20
    losses = {row["factor"]: row["validation_loss"] for row in trials}
    gains = {each: protocol["rate_search"]["start"] - loss for each, loss in losses.items()}
    factor = protocol["rate_search"]["factor"]
    assert factor == min(each for each, gain in gains.items() if gain >= MIN_GAIN_FRACTION * max(gains.values()))
    assert protocol["learning_rates"] == {"norms": factor * rate_search.BASE_RATES["norms"]}


def test_a_factor_that_is_known_is_not_looked_for(
    tmp_path: Path, llama: Path, texts: Path, advanced: list[int]
) -> None:
    session = _run(tmp_path, llama, texts, retrain={"rate_factor": 0.316}).recover()
    protocol = session.results.protocol["retraining"]
    assert protocol["learning_rates"] == {"norms": 0.316 * rate_search.BASE_RATES["norms"]}
    assert advanced == [40] * 40
    with pytest.raises(ValidationError, match="not both"):
        Retrain(rate_factor=0.316, learning_rate=0.01)


@pytest.mark.parametrize("steps", [1, 8, 15])
def test_a_short_training_takes_the_first_rung_untried(
    tmp_path: Path, llama: Path, texts: Path, advanced: list[int], steps: int
) -> None:
    session = _run(tmp_path, llama, texts, steps=steps).recover()
    assert session.results.protocol["retraining"]["rate_search"]["factor"] == factor(rate_search.FIRST)
    assert len(advanced) == steps + 4 * (steps // 8)


def test_trials_start_where_the_training_starts(tmp_path: Path, llama: Path, texts: Path) -> None:
    searched = _run(tmp_path / "searched", llama, texts, steps=20)
    rates = searched.recover().results.protocol["retraining"]["learning_rates"]
    asked = _run(tmp_path / "asked", llama, texts, steps=20, retrain={"learning_rate": rates["norms"]})
    asked.recover()
    pair = [job.stored["retraining", "trained"].sha256 for job in (searched, asked)]
    assert pair[0] == pair[1]


@pytest.mark.deep
def test_a_search_that_was_stopped_goes_on(
    tmp_path: Path, llama: Path, texts: Path, advanced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(tmp_path / "whole", llama, texts)
    protocol = whole.recover().results.protocol["retraining"]
    tried = len(protocol["rate_search"]["trials"])
    killed = _run(tmp_path / "killed", llama, texts)

    def trial(message: Message) -> bool:
        return isinstance(message, Checkpoint) and message.name == "rate-search"

    advanced.clear()
    for _ in range(tried):
        with pytest.raises(KilledError):
            killed.recover(kill_at=trial)
    assert advanced == [4] * 4 * tried, "no trial was done again"
    save_every_step(monkeypatch)
    with pytest.raises(KilledError):
        killed.recover(kill_at=lambda message: isinstance(message, Checkpoint) and "state-00000007" in message.path)
    assert killed.recover().results.protocol["retraining"] == protocol
    assert killed.stored["retraining", "trained"].sha256 == whole.stored["retraining", "trained"].sha256


@pytest.mark.deep
def test_a_rate_that_wrecks_the_model_is_left_early_and_told(
    tmp_path: Path, llama: Path, texts: Path, advanced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_search, "BASE_RATES", {**rate_search.BASE_RATES, "norms": 1e3})
    monkeypatch.setattr(work, "MAX_TRIALS", 2)
    session = _run(tmp_path, llama, texts, steps=400).recover()
    record = session.results.protocol["retraining"]["rate_search"]
    assert [row["validation_loss"] for row in record["trials"]] == [None, None]
    assert [row["factor"] for row in record["trials"]] == [0.316, 0.1]
    assert advanced.count(20) < 20


def test_members_of_a_soup_share_one_search(tmp_path: Path, llama: Path, texts: Path, advanced: list[int]) -> None:
    job = _run(tmp_path, llama, texts, soup={"members": 3})
    session = job.recover()
    assert session.results.protocol["retraining"]["learning_rates"].keys() == {"norms"}
    trials = job.stored["retraining", "rate-search"].data["trials"]
    assert advanced.count(4) == 4 * len(trials)
    assert advanced.count(40) == 3 * 40
    turns = [done.turn for done in session.results.phases if done.phase == "retraining"]
    assert turns == ["", "member-1", "member-2", "member-3"]
