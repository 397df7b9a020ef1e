"""What a phase reports reaches the listener, and of it the results keep what the report needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espalier.checkpoint_names import CheckpointName, Kind, RepetitionName
from espalier.messages import (
    Checkpoint,
    Message,
    Metric,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    StoredCheckpoint,
    Warned,
)
from espalier.session.reporter import Repetition, Reporter
from espalier.session.results import Results

BLOCK = CheckpointName(Kind.BLOCK, block=3)


def _reporter(folder: Path, *earlier: StoredCheckpoint) -> tuple[Reporter, list[Message]]:
    messages: list[Message] = []
    stored = {(item.phase, item.name): item for item in earlier}
    return Reporter(messages.append, Results(), folder, stored, torch.device("cpu")), messages


def _again(message: Message) -> StoredCheckpoint:
    assert isinstance(message, Checkpoint)
    return StoredCheckpoint(**message.model_dump(exclude={"kind", "origin"}), origin="job_other")


def test_a_phase_reports_its_start_its_end_and_the_last_of_its_progress(tmp_path: Path) -> None:
    reporter, messages = _reporter(tmp_path)
    with reporter.phase("pruning", total=3, unit="block") as phase:
        for done in (1, 2, 3):
            phase.progress(done)
    assert [type(message) for message in messages] == [PhaseStarted, Progress, Progress, PhaseCompleted]
    assert [message.current for message in messages if isinstance(message, Progress)] == [1, 3], "2 came at once"
    assert reporter.results.phases == messages[-1:]


def test_a_phase_that_fails_is_the_one_that_an_error_names_and_has_no_end(tmp_path: Path) -> None:
    reporter, messages = _reporter(tmp_path)
    with pytest.raises(ZeroDivisionError), reporter.phase("pruning"):
        _ = 1 / 0
    assert reporter.phase_now == "pruning"
    assert reporter.results.phases == []
    assert [type(message) for message in messages] == [PhaseStarted]


def test_a_user_is_warned_once(tmp_path: Path) -> None:
    reporter, messages = _reporter(tmp_path)
    for text in ("one", "one", "another"):
        reporter.warn("idle_experts", text)
    assert messages == [Warned(code="idle_experts", text=text) for text in ("one", "another")]
    assert [warning["text"] for warning in reporter.results.warnings] == ["one", "another"]


def test_what_a_phase_finished_with_is_there_for_the_next_attempt_in_the_same_turn_alone(tmp_path: Path) -> None:
    reporter, messages = _reporter(tmp_path)
    reporter.repetition = Repetition(RepetitionName(cycle=2))
    with reporter.phase("retraining") as phase:
        assert phase.finished() is None
        phase.perplexity = {"text": 12.0}
        phase.finish({"trained": 7})
    (stored,) = (message for message in messages if isinstance(message, Checkpoint))
    assert (stored.name, stored.path) == ("cycle-2--result", "checkpoints/retraining/cycle-2--result.json")

    later, _ = _reporter(tmp_path, _again(stored))
    for repetition, there in (
        (Repetition(), False),
        (Repetition(RepetitionName(cycle=1)), False),
        (Repetition(RepetitionName(cycle=2)), True),
    ):
        later.repetition = repetition
        with later.phase("retraining") as phase:
            data = phase.finished()
        assert (data is not None) is there, repetition
    assert data is not None
    assert data["trained"] == 7
    assert later.results.phases[-1].perplexity == {"text": 12.0}
    assert later.results.phases[-1].reused_from == "job_other"


def test_seconds_of_blocks_are_not_counted_beside_those_of_their_phase(tmp_path: Path) -> None:
    reporter, _ = _reporter(tmp_path)
    of_block = StoredCheckpoint(phase="pruning", name=str(BLOCK), path="b", sha256="", bytes=0, data={"seconds": 1000})
    of_phase = of_block.model_copy(update={"name": "result", "data": {"seconds": 5000}})
    later, _ = _reporter(tmp_path, of_block, of_phase)
    with later.phase("pruning") as phase:
        stored = later.stored("pruning", BLOCK)
        assert stored is not None
        phase.reuse(stored)
        assert phase.finished() is not None
        assert 5000 <= phase.seconds < 5900
    assert reporter.stored("pruning", BLOCK) is None


def test_series_and_files_bear_the_name_of_their_turn(tmp_path: Path) -> None:
    reporter, messages = _reporter(tmp_path)
    reporter.repetition = Repetition(RepetitionName(cycle=1, member=2))
    with reporter.phase("retraining") as phase:
        phase.metric("training_loss", 1, 0.5)
    assert [message.name for message in messages if isinstance(message, Metric)] == ["cycle-1-member-2.training_loss"]
    path = reporter.checkpoint_path("retraining", BLOCK, version="00000010")
    assert path == tmp_path / "checkpoints/retraining/cycle-1-member-2--block-00003-00000010.safetensors"
    assert path.parent.is_dir()
