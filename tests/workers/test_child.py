"""The compute process by hand: one request in, JSON lines out, nothing else on standard output."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from espalier.memory.constants import LIBRARIES_BYTES
from espalier.messages import Alive, Done, Failed
from tests.fixtures.library.jobs import LocalJob, local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from workers.messages import MESSAGES, AnyMessage


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> LocalJob:
    folder = tmp_path_factory.mktemp("child")
    return local_job(folder / "job", write_tiny_model(folder / "model"), write_texts(folder))


def _start() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-m", "workers.child"], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _run(request: str) -> tuple[int, list[AnyMessage], str]:
    child = _start()
    out, err = child.communicate(request + "\n")
    return child.returncode, [MESSAGES.validate_json(line) for line in out.splitlines()], err


def test_it_prints_messages_only_and_gives_the_bytes_of_an_in_process_run(job: LocalJob, tmp_path: Path) -> None:
    other = local_job(tmp_path, job.model_dir, Path(next(iter(job.texts.values()))).parent)
    other.attempt()
    code, messages, _ = _run(job.request().model_dump_json())
    assert code == 0
    assert isinstance(messages[-1], Done)
    for name in ("model.safetensors", "masks.safetensors"):
        assert (job.artifact / name).read_bytes() == (other.artifact / name).read_bytes()
    assert messages[-1].report["environment"]["threads"] == 1


@pytest.mark.deep
def test_a_failure_is_a_message_with_its_phase_and_the_trace_goes_to_the_log(job: LocalJob) -> None:
    request = job.request().model_copy(update={"datasets": {}})
    code, messages, log = _run(request.model_dump_json())
    assert code == 1
    assert isinstance(messages[-1], Failed)
    assert messages[-1].error.class_ == "dataset_error"
    assert "Traceback" in log


@pytest.mark.deep
def test_a_request_that_is_no_request_fails_in_words() -> None:
    code, messages, _ = _run("{}")
    assert code == 1
    assert isinstance(messages[0], Failed)


@pytest.mark.deep
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_was_promised_and_is_not_there_is_lost_and_no_cpu_takes_its_place(job: LocalJob) -> None:
    request = job.request().model_copy(update={"device": "cuda"})
    code, messages, _ = _run(request.model_dump_json())
    assert code == 1
    (failed,) = messages
    assert isinstance(failed, Failed)
    assert (failed.error.class_, failed.error.retryable) == ("device_lost", True)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("moves", "alive"),
    [
        ("child.steps_counted = itertools.count().__next__; child.bytes_moved = lambda: 0", True),
        ("child.steps_counted = lambda: 0; child.bytes_moved = itertools.count().__next__", True),
        ("child.steps_counted = lambda: 0; child.bytes_moved = lambda: 0", False),
    ],
    ids=["steps", "bytes", "nothing"],
)
def test_steps_and_bytes_that_move_are_told(moves: str, alive: bool, job: LocalJob) -> None:
    code = (
        f"import itertools, sys; from workers import child; {moves}; child.ALIVE_SECONDS = 0.01; sys.exit(child.main())"
    )
    started = subprocess.run(
        [sys.executable, "-c", code],
        input=job.request().model_dump_json() + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    messages = [MESSAGES.validate_json(line) for line in started.stdout.splitlines()]
    assert (sum(isinstance(message, Alive) for message in messages) > 5) == alive


@pytest.mark.deep
def test_sigterm_ends_it_at_once(job: LocalJob) -> None:
    child = _start()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(job.request().model_dump_json() + "\n")
    child.stdin.flush()
    child.stdout.readline()  # it computes
    child.send_signal(signal.SIGTERM)
    child.communicate()
    assert child.returncode == -signal.SIGTERM


def test_it_ends_when_nobody_listens(job: LocalJob) -> None:
    child = _start()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.close()
    child.stdin.write(job.request().model_dump_json() + "\n")
    child.stdin.close()
    assert child.wait() == 3
    assert child.stderr is not None
    child.stderr.close()


@pytest.mark.deep
def test_the_libraries_take_what_plans_reckon_with() -> None:
    imports = "import workers.child, transformers.models.llama.modeling_llama, psutil"
    code = f"{imports}; print(psutil.Process().memory_info().rss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 * LIBRARIES_BYTES < int(done.stdout) < LIBRARIES_BYTES
