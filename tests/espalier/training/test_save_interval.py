"""Training states: how often, and what becomes of one that cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from espalier.model.safetensors_writer import save_tensors
from espalier.retrain import retraining
from espalier.training.save_interval import SaveInterval
from tests.fixtures.library.jobs import write_topics
from tests.fixtures.library.recovery import Recovery, recovery, save_every_step
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets seconds pass; nothing else does."""
    now = [1000.0]
    monkeypatch.setattr("espalier.training.save_interval.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize(("cost", "due"), [(1.0, 30.0), (8.0, 80.0)])
def test_a_state_is_due_after_half_a_minute_or_ten_times_its_cost(
    clock: Callable[[float], None], cost: float, due: float
) -> None:
    interval = SaveInterval()
    clock(29.5)
    assert not interval.is_due()
    clock(0.5)
    assert interval.is_due()
    interval.begin()
    clock(cost)
    interval.end()
    clock(due - 0.5)
    assert not interval.is_due()
    clock(0.5)
    assert interval.is_due()


def test_no_state_is_due_while_another_one_is_written(clock: Callable[[float], None]) -> None:
    interval = SaveInterval()
    interval.begin()
    clock(10_000)
    assert not interval.is_due()


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recovery:
    save_every_step(monkeypatch)
    # States that a thread writes, as beside a GPU.
    monkeypatch.setattr(retraining, "is_accelerator", lambda _: True)
    text, model = write_topics(folder / "text.txt", 4), write_tiny_model(folder / "model")
    return recovery(folder / "job", model, text, retrain={"steps": 6, "batch_size": 2, "learning_rate": 0.01})


def test_states_that_a_thread_writes_are_whole_when_they_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, monkeypatch)
    sizes: dict[str, tuple[int, int]] = {}

    def listen(message: Any) -> bool:
        if getattr(message, "name", None) == "state":
            sizes[message.path] = ((run.folder / message.path).stat().st_size, message.bytes)
        return False

    run.recover(kill_at=listen)
    assert len(sizes) == 6
    assert all(there == told > 0 for there, told in sizes.values())


def test_what_goes_wrong_in_the_thread_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path, monkeypatch)

    def full(path: Path, tensors: Any) -> str:
        if path.name.startswith("state-00000003"):
            raise OSError(28, "No space left on device")
        return save_tensors(path, tensors)

    monkeypatch.setattr(retraining, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        run.recover()
    assert run.stored["retraining", "state"].path.endswith("state-00000002.safetensors"), "the one before"
