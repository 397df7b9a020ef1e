"""The child of a job with several ranks: torch's launcher starts them, one that dies ends all, none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from espalier.distributed.group import joined
from espalier.distributed.launch import RankEndedError, RankFailedError, launch
from espalier.messages import Checkpoint, Done, Failed
from espalier.model.numerics import deterministic
from espalier.parent_death import die_with_parent
from tests.distributed.whole_jobs import hashes
from tests.fixtures.library.jobs import LocalJob, local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from workers.lease.retries import from_exit
from workers.messages import MESSAGES, AnyMessage

pytestmark = pytest.mark.deep
ALPS: dict[str, Any] = {"prune": {"method": "wanda", "sparsity": 0.5, "update": {"kind": "alps"}}}
END_SECONDS = 10.0
Start = Callable[..., "RunningChild"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("launch") / "model")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start children, of which nothing is left behind the test."""
    with contextlib.ExitStack() as stack:

        def begin(*args: Any, **more: Any) -> RunningChild:
            child = RunningChild(*args, **more)
            stack.callback(child.close)
            return child

        yield begin


class RunningChild:
    """The compute child as the supervisor starts it: without a network, in a session of its own."""

    def __init__(self, job: LocalJob, ranks: int, **more: Any) -> None:
        job.folder.mkdir(exist_ok=True)
        request = job.request().model_copy(update={"ranks": ranks, **more})
        command = die_with_parent([sys.executable, "-P", "-m", "workers.child"], offline=True)
        env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.log = (job.folder / "log").open("w+b")
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.log, env=env, start_new_session=True
        )
        assert self.process.stdin is not None
        self.process.stdin.write(request.model_dump_json().encode() + b"\n")
        self.process.stdin.close()

    def messages(self) -> Iterator[AnyMessage]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield MESSAGES.validate_json(line)

    def family(self) -> list[psutil.Process]:
        """The launcher and all that it started."""
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]

    def rank(self, number: int) -> psutil.Process:
        """One of the ranks, which are forked in their order by a process that the launcher started."""
        (forks,) = [each for each in psutil.Process(self.process.pid).children() if each.children()]
        return sorted(forks.children(), key=lambda each: each.pid)[number]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    assert [each.cmdline() for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def until_first_block(child: RunningChild, job: LocalJob) -> None:
    for message in child.messages():
        if isinstance(message, Checkpoint):
            job.keep(message)
            if message.name == "block-00000":
                return
    pytest.fail(f"the job ended before its first block: {(job.folder / 'log').read_text()}")


def test_a_killed_rank_ends_the_attempt_and_the_next_one_gives_the_same_bytes(
    model: Path, texts: Path, tmp_path: Path, start: Start
) -> None:
    alone = local_job(tmp_path / "alone", model, texts, **ALPS)
    with deterministic(threads=1):
        alone.attempt()
    job = local_job(tmp_path / "together", model, texts, **ALPS)
    child = start(job, ranks=2)
    until_first_block(child, job)
    processes = child.family()
    os.kill(child.rank(1).pid, signal.SIGKILL)
    assert not [message for message in child.messages() if isinstance(message, Done)]
    error = from_exit(child.process.wait(END_SECONDS), [], None, out_of_memory=False)
    assert (error.class_, error.retryable) == ("worker_lost", True)
    assert_gone(processes)

    again = start(job, ranks=4)  # other cards may be free by then
    messages = list(again.messages())
    assert isinstance(messages[-1], Done), (job.folder / "log").read_text()
    assert again.process.wait(END_SECONDS) == 0
    assert hashes(job) == hashes(alone)
    assert next(message.name for message in messages if isinstance(message, Checkpoint)) == "block-00001"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_ranks_end_with_their_launcher(
    end: signal.Signals, model: Path, texts: Path, tmp_path: Path, start: Start
) -> None:
    job = local_job(tmp_path / "job", model, texts, **ALPS)
    child = start(job, ranks=2)
    until_first_block(child, job)
    processes = child.family()
    child.process.send_signal(end)  # to the launcher alone, as when its supervisor died
    assert child.process.wait(END_SECONDS) == -end, "as of a child alone: the next attempt goes on"
    assert [message for message in child.messages() if isinstance(message, Failed)] == []
    assert_gone(processes)


def test_a_killed_fork_server_is_a_lost_worker(model: Path, texts: Path, tmp_path: Path, start: Start) -> None:
    job = local_job(tmp_path / "job", model, texts, **ALPS)
    child = start(job, ranks=2)
    until_first_block(child, job)
    processes = child.family()
    os.kill(child.rank(0).ppid(), signal.SIGKILL)
    assert [message for message in child.messages() if isinstance(message, Failed)] == []
    assert child.process.wait(END_SECONDS) == -signal.SIGKILL
    assert_gone(processes)


def test_what_fails_in_any_rank_is_told_once(model: Path, texts: Path, tmp_path: Path, start: Start) -> None:
    job = local_job(tmp_path / "job", model, texts, **ALPS)
    child = start(job, ranks=2, datasets={})
    messages = list(child.messages())
    assert child.process.wait(END_SECONDS) == 1
    (failed,) = [message for message in messages if isinstance(message, Failed)]
    assert failed.error.class_ == "dataset_error"


def fail_in_rank(at_fault: int, by_signal: bool) -> None:
    """Work of a rank: the others wait for one that fails."""
    with joined("cpu") as group:
        if group.rank == at_fault:
            if by_signal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RankFailedError("it was I: $HOME, 100 %")
        group.led(lambda: time.sleep(60))


@pytest.mark.parametrize(("at_fault", "by_signal"), [(1, False), (0, True)])
def test_the_launcher_tells_what_ended_a_rank(at_fault: int, by_signal: bool) -> None:
    began = time.monotonic()
    with pytest.raises(RankEndedError) as caught:
        launch(2, fail_in_rank, at_fault, by_signal, preload=["torch"])
    assert (caught.value.text, caught.value.number) == (
        (None, signal.SIGKILL) if by_signal else ("it was I: $HOME, 100 %", None)
    )
    assert time.monotonic() - began < 30
