"""Files of finished blocks, written while the next block is computed: whole before anybody hears of them."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
import torch

from espalier import pipeline
from espalier.messages import Checkpoint, Layer, Message
from espalier.model.safetensors_writer import save_tensors
from espalier.session import Session, limits, resume
from espalier.session.checkpoint_writer import CheckpointWriter
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job


def test_files_are_reported_in_order_by_the_thread_that_asks() -> None:
    writer, reported = CheckpointWriter(), list[tuple[str, int]]()
    for name in "abc":
        writer.begin(lambda name=name: name, lambda digest: reported.append((digest, threading.get_ident())))  # type: ignore[misc]
    assert [digest for digest, _ in reported] == ["a", "b"], "one file at a time"
    writer.flush()
    assert reported == [(name, threading.get_ident()) for name in "abc"]


def test_a_file_that_is_not_finished_is_not_reported() -> None:
    writer, gate, reported = CheckpointWriter(), threading.Event(), list[str]()

    def write() -> str:
        gate.wait()
        return "digest"

    writer.begin(write, reported.append)
    writer.poll()
    assert not reported
    gate.set()
    writer.flush()
    writer.poll()
    assert reported == ["digest"]


@pytest.mark.parametrize("next_call", ["begin", "flush"])
def test_what_a_write_raises_the_next_call_raises_once(next_call: str) -> None:
    writer, reported = CheckpointWriter(), list[str]()

    def fail() -> str:
        raise OSError("no space left")

    writer.begin(fail, reported.append)
    with pytest.raises(OSError, match="no space"):
        writer.flush() if next_call == "flush" else writer.begin(lambda: "b", reported.append)
    writer.flush()
    assert not reported


def _ends(job: LocalJob) -> dict[str, str]:
    return {file.path: file.sha256 for file in job.attempt().files if file.kind in {"model", "mask"}}


@pytest.fixture
def job(tmp_path: Path, texts: Path, llama: Path) -> LocalJob:
    return local_job(tmp_path / "job", llama, texts)


def test_nobody_hears_of_a_block_before_its_file_is_whole(job: LocalJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second block is pruned on the outputs of the first one while that one's file is held up."""
    rows: list[Layer] = []
    second = threading.Event()

    def held_up(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        assert second.wait(30)
        return save_tensors(path, tensors)

    def hear(message: Message) -> bool:
        if isinstance(message, Layer):
            rows.append(message)
            if message.block == 1:
                second.set()
        if isinstance(message, Checkpoint) and message.name.startswith("block-"):
            data = (job.folder / message.path).read_bytes()
            assert (message.bytes, message.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert len(rows) == 14, "both blocks were done before the first file was written"
        return False

    monkeypatch.setattr(resume, "save_tensors", held_up)
    held = {file.path: file.sha256 for file in job.attempt(kill_at=hear).files if file.kind in {"model", "mask"}}
    monkeypatch.undo()
    job.stored.clear()
    assert held == _ends(job)


def test_without_room_for_a_block_more_the_same_bytes_come_out(job: LocalJob) -> None:
    order: list[str] = []

    def note(message: Message) -> bool:
        order.append(type(message).__name__)
        return False

    session, check = job.session(kill_at=note), limits.check

    def tight(of: Session) -> None:
        check(of)
        of.overlaps = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "check", tight)
        done = pipeline.compute(session)
    last_row = max(index for index, kind in enumerate(order) if kind == "Layer")
    assert "Checkpoint" in order[order.index("Layer") : last_row], "a block is written before the next one begins"
    files = {file.path: file.sha256 for file in done.files if file.kind in {"model", "mask"}}  # type: ignore[union-attr]
    job.stored.clear()
    assert files == _ends(job)


@pytest.mark.parametrize("whole", [0, 1])
def test_a_kill_goes_on_from_what_is_whole(whole: int, job: LocalJob) -> None:
    expected = _ends(job)
    job.stored.clear()
    rows: list[int] = []

    def second_is_done(message: Message) -> bool:
        if isinstance(message, Layer):
            rows.append(message.block)
        of_block = isinstance(message, Checkpoint) and message.name.startswith("block-")
        return of_block if whole else rows.count(0) == 7

    with pytest.raises(KilledError):
        job.attempt(kill_at=second_is_done)
    assert len([name for _, name in job.stored if name.startswith("block-")]) == whole
    assert _ends(job) == expected


def test_a_disk_that_is_full_ends_the_phase(job: LocalJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        job.attempt()
    assert not any(isinstance(message, Checkpoint) and message.phase == "pruning" for message in job.messages)
