"""A real file system without room under a worker: the error has its name, nothing stays behind, the worker goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from app.db.job import Job
from tests.chaos.arena import Arena
from tests.chaos.pruned import pruning, undisturbed
from tests.fixtures.servers.hub import Hub
from tests.fixtures.suite.figures import record
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

MOUNT_BYTES, SPARE_BYTES = 8 * 2**20, 48 * 2**10
SETTINGS = {"scratch": "ESPALIER_SCRATCH_DIR", "cache": "ESPALIER_CACHE_DIR", "store": "ESPALIER_STORE_URL"}

pytestmark = pytest.mark.timeout(900)


def namespace(folder: Path) -> list[str]:
    """A command that runs another where `folder` is a small file system that nobody else sees; it ends with it."""
    alone = ["unshare", "--mount", "--propagation", "private", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = f'mount -t tmpfs -o size={MOUNT_BYTES} full {folder} && exec "$@"'
    command = [*alone, "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here: a file system cannot be made")
    return command


def fill(folder: Path) -> Path:
    """Leave no more than the spare bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        file.truncate(file.tell() - SPARE_BYTES)
    return ballast


@pytest.mark.parametrize("what", SETTINGS)
def test_a_full_disk_fails_the_attempt_and_not_the_worker(what: str, sqlite_url: str, tmp_path: Path, hub: Hub) -> None:
    bench, folder = Bench(sqlite_url, tmp_path), tmp_path / "small"
    folder.mkdir()
    request = pruning(tmp_path)
    expected = undisturbed(bench, request, tmp_path)
    hub.add_model("org/tiny", tmp_path / "tiny")
    hubs = {**request, "source": {"kind": "huggingface", "repo": "org/tiny"}}
    arena = Arena(
        bench,
        seed=0,
        environment={
            "ESPALIER_LOCAL_ROOTS": str(tmp_path),
            "ESPALIER_HF_ENDPOINT": hub.url,
            "NO_PROXY": "127.0.0.1",
            SETTINGS[what]: f"file://{folder}" if what == "store" else str(folder),
        },
    )
    arena.around = namespace(folder)
    with arena.open(1):
        _, inside = _mounted(arena, folder)
        ballast = fill(inside)
        job = bench.add("tiny", request=hubs)
        bench.wait_for_event(job, "job.retry_scheduled", seconds=300)
        small = bench.add("under-fire") if what != "store" else None  # it has room in the spare bytes
        if small:
            assert bench.wait(small, "succeeded", seconds=120).attempt == 1
        ballast.unlink()
        done = bench.wait(job, "succeeded", "failed", seconds=300)
        worker, alive = psutil.Process(arena.workers[0].pid), arena.workers[0].poll() is None
        left = [path for path in (inside if what == "scratch" else bench.settings.scratch).glob("*") if path.is_dir()]
        if what == "store":
            bench.store = type(bench.store)(inside)
        _check(bench, done, expected, small)
        assert alive
        assert worker.is_running()
        assert left == []
    errors = [attempt.error["class"] for attempt in bench.attempts(job) if attempt.error]
    assert set(errors) == {"disk_full"}
    record(
        "fault",
        f"disk full ({what}: a file system of {MOUNT_BYTES // 2**20} MiB)",
        "0 lost, `disk_full`",
        f"{len(errors)} attempts ended with `disk_full`, {'a smaller job done meanwhile, ' * bool(small)}"
        "scratch cleaned, "
        "succeeded with equal bytes once there was room; the worker went on",
    )
    bench.database.dispose()


def _mounted(arena: Arena, folder: Path) -> tuple[int, Path]:
    """The folder as the worker sees it."""
    pid = arena.workers[0].pid
    inside = Path(f"/proc/{pid}/root") / folder.relative_to("/")
    deadline = time.monotonic() + 20
    while shutil.disk_usage(inside).total > MOUNT_BYTES:
        assert time.monotonic() < deadline, "the file system is not there"
        time.sleep(0.05)
    return pid, inside


def _check(bench: Bench, done: Job, expected: str, small: str | None) -> None:
    assert done.state == "succeeded", done.error
    arena = Arena(bench, seed=0, environment={})
    arena.verdict({done.id: expected, **({small: model(6)} if small else {})})
