"""The embedded service as a process tree."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.settings import Settings
from tests.fixtures.suite.patience import Patience, outlive
from tests.fixtures.workers.cards import GIB, Cards
from workers.processes import machine
from workers.processes.process import ROOT
from workers.service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A service in its own folder on a free port."""
    env = {**os.environ, "ESPALIER_HOME": str(tmp_path / "home"), "ESPALIER_PORT": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "workers.service"]
    process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def url(service: subprocess.Popen[str]) -> str:
    assert service.stdout is not None
    return service.stdout.readline().strip().removeprefix("listening on ")


def parts(service: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    processes: dict[str, psutil.Process] = {}
    for child in psutil.Process(service.pid).children():
        words = " ".join(child.cmdline())
        processes |= {name: child for name in ("app.server", "workers.main", "workers.reconciler") if name in words}
    return processes


def test_the_service_says_where_it_listens_and_ends_with_all_its_parts(service: subprocess.Popen[str]) -> None:
    assert httpx.get(f"{url(service)}/readyz", timeout=60).status_code == 200
    running = list(parts(service).values())
    assert len(running) == 3
    service.send_signal(signal.SIGTERM)
    assert service.wait(60) == 0
    assert not any(part.is_running() for part in running)


def test_a_part_that_dies_is_started_again(service: subprocess.Popen[str]) -> None:
    address = url(service)
    before = parts(service)
    before["app.server"].kill()
    patience = Patience(60)
    while True:
        try:
            assert httpx.get(f"{address}/healthz", timeout=5).status_code == 200
            break
        except httpx.HTTPError:
            patience.pause(0.1)
    after = parts(service)
    assert after["app.server"].pid != before["app.server"].pid
    assert after["workers.main"].pid == before["workers.main"].pid


def test_kill_9_of_the_service_leaves_nothing_behind(service: subprocess.Popen[str]) -> None:
    url(service)
    running = list(parts(service).values())
    assert len(running) == 3
    service.kill()
    assert outlive(running) == []


def test_a_port_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        env = {**os.environ, "ESPALIER_HOME": str(tmp_path), "ESPALIER_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-m", "workers.service"],
            env=env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_a_worker_of_a_class_that_gets_no_jobs_does_not_start(tmp_path: Path) -> None:
    env = {**os.environ, "ESPALIER_HOME": str(tmp_path), "ESPALIER_WORKER_CLASSES": "cpu=16e9,gpu=80e9"}
    done = subprocess.run(
        [sys.executable, "-m", "workers.main"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "no job is ever sent to the worker class default: ESPALIER_WORKER_CLASSES names cpu, gpu" in done.stderr


@pytest.mark.parametrize(
    ("classes", "gpus", "environment"),
    [
        ("default", ["GPU-00000000", "GPU-00000001"], str(45 * GIB)),
        # A class of CPUs beside it keeps its one worker, and leaves the GPUs alone.
        ("cpu=16e9,gpu=80e9", ["GPU-00000000", "GPU-00000001"], str(45 * GIB)),
        # Which class a GPU belongs to nobody says: each takes the first, as it did.
        ("small=16e9,large=80e9", [], None),
        ("cpu=16e9", [], None),
    ],
)
def test_a_service_computes_on_every_gpu_of_the_machine(
    classes: str,
    gpus: list[str],
    environment: str | None,
    nvidia_smi: Cards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvidia_smi.are(80, 80)
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: 100 * GIB)
    settings = Settings(home=tmp_path, port=0, device="auto", worker_classes=classes)
    service = Service(settings)
    workers = [part.command for part in service.parts if "workers.main" in part.command]
    assert [command[command.index("--gpus") + 1] for command in workers if "--gpus" in command] == gpus
    assert len([command for command in workers if "--gpus" not in command]) == len(settings.classes) - bool(gpus)
    assert service.environment.get("ESPALIER_CHILD_MEMORY_BYTES") == environment


def test_a_machine_of_one_gpu_or_of_unequal_ones_has_one_worker(nvidia_smi: Cards, tmp_path: Path) -> None:
    for sizes in ((80,), (80, 24)):
        nvidia_smi.are(*sizes)
        service = Service(Settings(home=tmp_path, port=0, device="auto"))
        (worker,) = (part.command for part in service.parts if "workers.main" in part.command)
        assert "--gpus" not in worker
