"""Training states: how often, one at a time, and what becomes of one that cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from espalier.model.safetensors_writer import sha256_of
from espalier.retrain import state_writer
from espalier.retrain.state_writer import StateWriter

STATE = {"value:norm": torch.arange(4.0)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets seconds pass; nothing else does."""
    now = [1000.0]
    monkeypatch.setattr("espalier.retrain.state_writer.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize(("cost", "due"), [(1.0, 30.0), (8.0, 80.0)])
def test_a_state_is_due_after_half_a_minute_or_ten_times_its_cost(
    tmp_path: Path, clock: Callable[[float], None], cost: float, due: float
) -> None:
    def state() -> Mapping[str, torch.Tensor]:
        clock(cost)
        return STATE

    with StateWriter(beside=False) as states:
        clock(29.5)
        assert not states.is_due()
        clock(0.5)
        assert states.is_due()
        states.write(tmp_path / "state", state, lambda _: None)
        clock(due - 0.5)
        assert not states.is_due()
        clock(0.5)
        assert states.is_due()


def test_a_state_that_is_being_written_lets_no_other_be_due(
    tmp_path: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, save, heard = threading.Event(), state_writer.save, list[str]()

    def slow(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
        assert go_on.wait(10)
        return save(path, tensors)

    monkeypatch.setattr(state_writer, "save", slow)
    path = tmp_path / "state.safetensors"
    with StateWriter(beside=True) as states:
        states.write(path, lambda: STATE, heard.append)
        clock(10_000)
        assert not states.is_due()
        assert heard == [], "a file that is not there is not reported"
        go_on.set()
    assert heard == [sha256_of(path)[0]]
    assert torch.equal(load_file(path)["value:norm"], STATE["value:norm"])


@pytest.mark.parametrize("beside", [True, False])
def test_what_goes_wrong_is_raised_where_the_training_runs(tmp_path: Path, beside: bool) -> None:
    def write() -> None:
        with StateWriter(beside=beside) as states:
            states.write(tmp_path / "nowhere" / "state", lambda: STATE, lambda _: None)

    with pytest.raises(Exception, match="nowhere"):
        write()


def test_a_training_that_fails_waits_for_its_thread_and_reports_nothing(tmp_path: Path) -> None:
    heard: list[str] = []

    def fail() -> None:
        with StateWriter(beside=True) as states:
            states.write(tmp_path / "state.safetensors", lambda: STATE, heard.append)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert heard == []
    assert not any(thread.name.startswith("training-state") for thread in threading.enumerate())
