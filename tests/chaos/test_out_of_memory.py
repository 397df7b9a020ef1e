"""The kernel's own OOM killer, in a control group of a worker: the class is `host_oom`, and the worker goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.arena import Arena
from tests.fixtures.suite.figures import record
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

LIMIT_BYTES = 400 * 2**20


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of ours with a limit on memory, of either version."""
    own = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    v1 = next((path for controllers, path in own.items() if "memory" in controllers.split(",")), None)
    base = Path("/sys/fs/cgroup") / ("memory" if v1 else "") / (v1 or own.get("", "/")).lstrip("/")
    made = base / f"espalier-test-{os.getpid()}"
    try:
        made.mkdir()
        (made / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(LIMIT_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            made.rmdir()
        pytest.skip(f"no control group of our own here: {error}")
    yield made
    deadline = time.monotonic() + 10
    while True:
        try:
            made.rmdir()
        except OSError:  # its last process is on its way out
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def enter(group: Path) -> list[str]:
    """A command that runs another in the group."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def test_a_child_that_the_kernel_ends_for_memory_is_named(sqlite_url: str, tmp_path: Path, group: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    arena = Arena(bench, seed=0, environment={})
    arena.around = enter(group)
    assert subprocess.run([*arena.around, "true"], check=False).returncode == 0
    with arena.open(1):
        hungry = bench.add("devours")
        failed = bench.wait(hungry, "failed", seconds=60)
        modest = bench.add("under-fire")
        assert bench.wait(modest, "succeeded", seconds=30).attempt == 1
        assert arena.workers[0].poll() is None
    arena.verdict({modest: model(6)})
    assert failed.error is not None
    errors = [attempt.error["class"] for attempt in bench.attempts(hungry) if attempt.error]
    assert errors == ["host_oom"] * 4, "three times more, each smaller, and then no more"
    assert [path for path in bench.settings.scratch.glob("*") if path.is_dir()] == []
    record(
        "fault",
        f"out of memory: the kernel's OOM killer in a group of {LIMIT_BYTES // 2**20} MiB",
        "`host_oom`, budget respected",
        f"{len(errors)} attempts, all `host_oom`, then failed; the same worker did the next job",
    )
    bench.database.dispose()
