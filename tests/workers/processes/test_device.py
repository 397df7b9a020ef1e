"""A GPU that a job lost: no other job is spent on it before it answers again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from app.db.job import Worker
from app.db.result import LogLine
from tests.fixtures.suite.patience import Patience
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.cards import GIB, Cards
from tests.fixtures.workers.runs import SCRIPTED, Bench
from workers.processes import device, release
from workers.processes.placement import Placement
from workers.processes.process import Child
from workers.supervisor.worker_loop import WorkerLoop


class Card:
    """A GPU that answers unless it is broken, and notes how often it was asked."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._asked, self._broken = folder / "asked", folder / "broken"
        words = "echo RuntimeError: No CUDA GPUs are available >&2"
        self.answers(bench, f"echo . >> {self._asked}; test -e {self._broken} || exit 0; {words}; exit 1")

    def answers(self, bench: Bench, script: str) -> None:
        """Put a line of shell in the place of what asks a GPU."""
        settings = bench.settings.model_copy(update={"device": "cuda"})
        commands = replace(SCRIPTED, device=("sh", "-c", script))
        bench.services = replace(bench.services, settings=settings, commands=commands)

    @property
    def asked(self) -> int:
        return len(self._asked.read_text().split()) if self._asked.exists() else 0

    def breaks(self) -> None:
        """Answer no more, and forget how often it was asked."""
        self._broken.touch()
        self._asked.unlink(missing_ok=True)

    def mend(self) -> None:
        self._broken.unlink()


@pytest.fixture
def card(sqlite_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    monkeypatch.setattr(device, "FIRST_PAUSE_SECONDS", 0.01)
    return Card(sqlite_bench, tmp_path)


@pytest.fixture
def loop(sqlite_bench: Bench, card: Card) -> Iterator[WorkerLoop]:
    """A loop whose first job lost the device, and a second job that waits."""
    made = WorkerLoop(sqlite_bench.services)
    lost = sqlite_bench.add("loses-its-device")
    work_when_ready(made)
    card.breaks()
    assert sqlite_bench.job(lost).failures == {"device_lost": 1}
    sqlite_bench.set(lost, state="paused")
    yield made
    made.close()


def row(bench: Bench) -> Worker:
    with bench.database.reading() as session:
        return session.scalars(select(Worker)).one()


def work_when_ready(loop: WorkerLoop) -> None:
    """Work on a job, which takes a device that has answered."""
    patience = Patience(30)
    while not loop.work_once():
        patience.pause(0.01, "the device is asked")


def look_until(loop: WorkerLoop, card: Card, *, asked: int) -> None:
    patience = Patience(30)
    while card.asked < asked:
        assert not loop.work_once()
        patience.pause(0.01, card.asked)


def test_nothing_is_claimed_before_the_device_has_answered_once(sqlite_bench: Bench, card: Card) -> None:
    card.breaks()
    waiting, loop = sqlite_bench.add(), WorkerLoop(sqlite_bench.services)
    look_until(loop, card, asked=3)
    assert (sqlite_bench.job(waiting).attempt, row(sqlite_bench).device_lost_at is not None) == (0, True)
    card.mend()
    work_when_ready(loop)
    assert (sqlite_bench.job(waiting).state, row(sqlite_bench).device_lost_at) == ("succeeded", None)


def test_a_worker_for_one_job_asks_its_device_first(sqlite_bench: Bench, card: Card) -> None:
    jobs = [sqlite_bench.add(), sqlite_bench.add()]
    WorkerLoop(sqlite_bench.services).run(once=True)
    card.breaks()
    with pytest.raises(SystemExit, match="GPU does not answer"):
        WorkerLoop(sqlite_bench.services).run(once=True)
    assert card.asked == 1
    assert [sqlite_bench.job(job).state for job in jobs] == ["succeeded", "queued"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_child_is_promised_what_its_worker_has_decided_on(
    device: str, sqlite_bench: Bench, card: Card, nvidia_smi: Cards
) -> None:
    nvidia_smi.are(*([80] if device == "cuda" else []))
    settings = sqlite_bench.settings.model_copy(update={"device": "auto"})
    sqlite_bench.services = replace(sqlite_bench.services, settings=settings)
    job, loop = sqlite_bench.add("tells"), WorkerLoop(sqlite_bench.services)
    work_when_ready(loop)
    with sqlite_bench.database.reading() as session:
        lines = session.scalars(select(LogLine.text).where(LogLine.job_id == job)).all()
    assert any(f'"device": "{device}"' in line for line in lines)


def test_nothing_is_claimed_before_a_lost_device_answers(sqlite_bench: Bench, card: Card, loop: WorkerLoop) -> None:
    waiting = sqlite_bench.add()
    with capture_logs() as lines:
        look_until(loop, card, asked=3)
    assert sqlite_bench.job(waiting).attempt == 0
    worker = row(sqlite_bench)
    assert (worker.job_id, worker.device_lost_at is not None) == (None, True)
    pauses = [(line["reason"], line["pause_seconds"]) for line in lines if "pause_seconds" in line]
    assert pauses[:2] == [("RuntimeError: No CUDA GPUs are available", 0.01), (pauses[0][0], 0.02)]
    seen_at, lost_at = worker.seen_at, worker.device_lost_at
    card.mend()
    patience = Patience(30)
    while not loop.work_once():
        patience.pause(0.01, sqlite_bench.job(waiting).state)
        assert row(sqlite_bench).device_lost_at in {None, lost_at}
    assert sqlite_bench.job(waiting).state == "succeeded"
    worker = row(sqlite_bench)
    assert worker.device_lost_at is None
    assert worker.seen_at > seen_at
    asked = card.asked
    assert not loop.work_once()
    assert card.asked == asked, "a device that answers is believed"


def test_what_the_device_lacks_is_told_with_what_to_do(sqlite_bench: Bench, card: Card) -> None:
    said = "AcceleratorError: CUDA error: no kernel image is available for execution on the device"
    card.answers(sqlite_bench, f"echo '{said}' >&2; echo 'Compile with `TORCH_USE_CUDA_DSA` to enable' >&2; exit 1")
    loop, patience = WorkerLoop(sqlite_bench.services), Patience(30)
    with capture_logs() as lines:
        while not loop.device.lost:
            assert not loop.work_once()
            patience.pause(0.01, "the device is asked")
    loop.close()
    (line,) = (line for line in lines if "pause_seconds" in line)
    assert line["reason"] == said
    assert "ESPALIER_DEVICE=cpu" in line["hint"]


def test_a_device_whose_driver_does_not_answer_is_asked_again_later(
    sqlite_bench: Bench, card: Card, nvidia_smi: Cards
) -> None:
    nvidia_smi.are(80)
    loop = WorkerLoop(sqlite_bench.services)
    nvidia_smi.fail("Unknown Error")
    with capture_logs() as lines:
        look_until(loop, card, asked=3)
    loop.close()
    assert [line["pause_seconds"] for line in lines if "pause_seconds" in line][:2] == [0.01, 0.02]


def test_a_job_whose_device_vanishes_goes_on_at_another_worker(sqlite_bench: Bench, card: Card) -> None:
    broken, whole = WorkerLoop(sqlite_bench.services), WorkerLoop(sqlite_bench.services)
    undisturbed, job = sqlite_bench.add(), sqlite_bench.add("loses-its-device-midway")
    for loop in (whole, broken):
        work_when_ready(loop)
    assert len(sqlite_bench.job(job).checkpoints) == 3
    card.breaks()
    sqlite_bench.hurry(job)
    look_until(broken, card, asked=2)
    assert sqlite_bench.job(job).state == "queued"
    assert whole.work_once()
    assert (sqlite_bench.job(job).state, sqlite_bench.job(job).attempt) == ("succeeded", 2)
    assert sqlite_bench.attempts(job)[1].resumed_from == {"phase": "pruning", "name": "block-00002"}
    assert sqlite_bench.digests(job) == sqlite_bench.digests(undisturbed)
    with sqlite_bench.database.reading() as session:
        lost = [row.id for row in session.scalars(select(Worker)) if row.device_lost_at is not None]
    assert lost == [broken.identity.id]
    broken.close()


def test_a_device_that_does_not_answer_is_left_alone_for_a_while(
    sqlite_bench: Bench, card: Card, loop: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "FIRST_PAUSE_SECONDS", 3600.0)
    patience = Patience(30)
    with capture_logs() as lines:
        while not lines:
            assert not loop.work_once()
            patience.pause(0.01, card.asked)
    seen_at = row(sqlite_bench).seen_at
    for _ in range(5):
        assert not loop.work_once()
        time.sleep(0.02)
    assert card.asked == 1
    assert row(sqlite_bench).seen_at > seen_at


def test_a_device_that_does_not_answer_at_all_is_given_up_each_time(
    sqlite_bench: Bench, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "ANSWER_SECONDS", 0.1)
    card.answers(sqlite_bench, "sleep 777")
    loop, waiting = WorkerLoop(sqlite_bench.services), sqlite_bench.add()
    patience, timeouts = Patience(30), 0
    with capture_logs() as lines:
        while timeouts < 2:
            assert not loop.work_once()
            timeouts = sum(line.get("reason") == "no answer within 0.1 s" for line in lines)
            patience.pause(0.01, lines)
    loop.close()
    assert running("sleep 777") == []
    assert (sqlite_bench.job(waiting).attempt, row(sqlite_bench).device_lost_at is not None) == (0, True)


def test_a_question_that_the_kernel_keeps_is_not_asked_a_second_time(
    sqlite_bench: Bench, card: Card, loop: WorkerLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "ANSWER_SECONDS", 0.05)
    with monkeypatch.context() as kernel:
        kernel.setattr(Child, "kill", lambda _child: False)
        kernel.setattr(Child, "finished", False)
        look_until(loop, card, asked=1)
        for _ in range(10):
            assert not loop.work_once()
            time.sleep(0.02)
        assert card.asked == 1
    look_until(loop, card, asked=2)


def test_a_worker_on_a_cpu_goes_on(sqlite_bench: Bench, card: Card) -> None:
    settings = sqlite_bench.settings.model_copy(update={"device": "cpu"})
    sqlite_bench.services = replace(sqlite_bench.services, settings=settings)
    loop = WorkerLoop(sqlite_bench.services)
    lost, next_one = sqlite_bench.add("loses-its-device"), sqlite_bench.add()
    assert loop.work_once()
    assert loop.work_once()
    assert (sqlite_bench.job(lost).attempt, sqlite_bench.job(next_one).state) == (1, "succeeded")
    assert (card.asked, row(sqlite_bench).device_lost_at) == (0, None)


def test_a_scratch_folder_that_takes_nothing_is_no_answer(sqlite_bench: Bench, card: Card, loop: WorkerLoop) -> None:
    scratch = sqlite_bench.settings.scratch
    scratch.rename(scratch.with_name("away"))
    scratch.touch()
    with capture_logs() as lines:
        assert not loop.work_once()
    assert [line["reason"] for line in lines] == ["it cannot be asked: File exists"]
    assert row(sqlite_bench).device_lost_at is not None
    scratch.unlink()
    look_until(loop, card, asked=1)


def test_a_worker_that_ends_takes_its_question_along(sqlite_bench: Bench, card: Card) -> None:
    card.answers(sqlite_bench, "sleep 778")
    with sqlite_bench.worker_loop():
        patience = Patience(30)
        while not running("sleep 778"):
            patience.pause(0.02, "the device is asked")
    assert running("sleep 778") == []


@pytest.fixture
def on_card(sqlite_bench: Bench, card: Card, nvidia_smi: Cards) -> WorkerLoop:
    """A loop on a card whose driver still lists the process of its first job, which is over."""
    nvidia_smi.are(80)
    sqlite_bench.services = replace(
        sqlite_bench.services, settings=sqlite_bench.settings.model_copy(update={"device": "auto"})
    )
    made = WorkerLoop(sqlite_bench.services, placement=Placement.of(sqlite_bench.services.settings))
    job = sqlite_bench.add("measures")
    work_when_ready(made)
    assert sqlite_bench.job(job).state == "succeeded"
    return made


def computed_by(loop: WorkerLoop) -> int:
    pid = loop.device.release.pid
    assert pid is not None
    return pid


def test_the_next_claim_waits_until_the_card_is_free(
    sqlite_bench: Bench, on_card: WorkerLoop, nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "POLL_SECONDS", 0.0)
    nvidia_smi.hold(1, computed_by(on_card))
    waiting = sqlite_bench.add()
    for _ in range(3):
        assert not on_card.work_once()
    assert (sqlite_bench.job(waiting).attempt, row(sqlite_bench).device_lost_at) == (0, None)
    nvidia_smi.hold(1)  # somebody else's stays
    assert on_card.work_once()
    assert sqlite_bench.job(waiting).state == "succeeded"
    assert all("-i GPU-00000000" in line for line in nvidia_smi.asked)


def test_a_card_that_is_never_free_is_lost_and_asked(
    sqlite_bench: Bench, card: Card, on_card: WorkerLoop, nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "RELEASE_SECONDS", 0.0)
    card.breaks()
    nvidia_smi.hold(computed_by(on_card))
    on_card.device.await_release(computed_by(on_card))
    waiting = sqlite_bench.add()
    look_until(on_card, card, asked=1)
    on_card.work_once()
    assert sqlite_bench.job(waiting).attempt == 0
    assert row(sqlite_bench).device_lost_at is not None
    on_card.close()


def test_in_a_container_the_memory_of_the_card_tells(
    sqlite_bench: Bench, on_card: WorkerLoop, nvidia_smi: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where processes have other numbers than here, the driver lists none of ours."""
    monkeypatch.setattr(release, "POLL_SECONDS", 0.0)
    nvidia_smi.use(70)
    first = sqlite_bench.add()
    for _ in range(3):
        assert not on_card.work_once()
    nvidia_smi.use(1)
    assert on_card.work_once()
    second = sqlite_bench.add()
    monkeypatch.setattr(release, "RELEASE_SECONDS", 0.0)
    on_card.device.await_release(computed_by(on_card))
    nvidia_smi.use(30)  # of somebody else, who stays
    assert on_card.work_once()
    assert [sqlite_bench.job(job).state for job in (first, second)] == ["succeeded"] * 2
    assert row(sqlite_bench).device_lost_at is None


def test_a_driver_that_answers_no_more_is_a_lost_device(
    sqlite_bench: Bench, card: Card, on_card: WorkerLoop, nvidia_smi: Cards
) -> None:
    card.breaks()
    nvidia_smi.fail("Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.")
    look_until(on_card, card, asked=1)
    assert row(sqlite_bench).device_lost_at is not None
    on_card.close()


def test_what_the_probe_sees_of_a_cards_memory_stands_in_the_row(
    sqlite_bench: Bench, card: Card, nvidia_smi: Cards
) -> None:
    nvidia_smi.are(80, slices={0: ["3g.40gb"]})
    card.answers(sqlite_bench, """echo '{"kind": "device", "name": "H80 MIG 3g.40gb", "memory_bytes": 42144366592}'""")
    made = WorkerLoop(sqlite_bench.services)
    sqlite_bench.add()
    assert made.identity.memory_bytes == 40 * GIB, "by the name of the profile"
    work_when_ready(made)
    assert row(sqlite_bench).memory_bytes == made.identity.memory_bytes == 42144366592


def test_pauses_grow_to_five_minutes() -> None:
    assert [device.pause_seconds(failures) for failures in range(1, 8)] == [10, 20, 40, 80, 160, 300, 300]
