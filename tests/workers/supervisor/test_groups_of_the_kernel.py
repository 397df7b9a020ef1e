"""What a pretended kernel cannot prove: that the real one bounds a child, ends it beyond its bound, and counts it.

It takes a control group with a memory controller that is delegated to the tests, as docs/operations.md tells.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from espalier.messages import Log, Message
from espalier.parent_death import die_with_parent
from workers.processes import groups
from workers.processes.groups import ControlGroup, ControlGroups, NotDelegated
from workers.processes.memory import MemoryLimits
from workers.processes.process import Child, environment

MIB = 2**20
HELD = 64 * MIB
AROUND = 256 * MIB
"""Of a worker that has a bound itself."""
TAKE = "import os; os.write(1, b'%d\\n' % os.getpid()); held = b'x' * ({mib} << 20)"
SHARE = r"""
import os, time
for _ in range(2):
    if not os.fork():
        os.setsid()
        os.write(1, b"%d\n" % os.getpid())
        held = b"x" * ({mib} << 20)
        time.sleep({seconds})
        os._exit(0)
os.write(1, b"%d\n" % os.getpid())
for _ in range(2):
    os.wait()
"""
"""Takes in processes of sessions of their own, of which none alone is beyond the bound."""
WORKER = """
import json, pathlib, sys
from espalier.messages import Message
from workers.processes import groups, machine
from workers.processes.memory import Limits
from workers.processes.process import Child, environment
here, most, made = pathlib.Path.cwd(), 2**40, groups.at_start()
ends = []
for chosen in (made, None):
    child = Child(
        [sys.executable, "-c", "held = b'x' * (1 << 30)"], Message(), env=environment("fetch", here, 1), cwd=here,
        offline=False, memory=Limits(most, most), groups=chosen,
    )
    while not child.finished:
        child.pipe.take(wait_seconds=0.05)
    child.close()
    ends.append([child.returncode, child.out_of_memory])
own = pathlib.Path("/proc/self/cgroup").read_text().split("0::")[1].strip()
print(json.dumps([str(made.base), own, machine.host_memory_bytes(), ends]))
"""

REFUSED = """
import json, pathlib
from workers.processes import groups
try:
    refused = groups.delegated().base.name
except groups.NotDelegated as refusal:
    refused = str(refusal)
print(json.dumps([refused, pathlib.Path("/proc/self/cgroup").read_text().split("0::")[1].strip()]))
"""


@pytest.fixture
def made() -> ControlGroups:
    """Return what makes groups on this machine."""
    try:
        return groups.delegated()
    except NotDelegated as refusal:
        pytest.skip(f"no control group that bounds memory is delegated to the tests: {refusal}")


def run(code: str, folder: Path, made: ControlGroups) -> tuple[Child, list[int]]:
    """Run a program in a group of its own to its end; return it, and the processes that it said it had."""
    child = Child(
        [sys.executable, "-c", code],
        Message(),
        env=environment("fetch", folder, 1),
        cwd=folder,
        offline=True,
        memory=MemoryLimits(held=HELD, data=2**40),
        groups=made,
    )
    messages = []
    while not child.finished:
        messages += child.pipe.take(wait_seconds=0.05)
    child.close()
    pids = [int(message.text.removeprefix("not a message: ")) for message in messages if isinstance(message, Log)]
    assert list(made.base.glob(f"espalier-{os.getpid()}-*")) == [], "its group is gone"
    return child, pids


@pytest.mark.parametrize(("code", "processes"), [(TAKE.format(mib=80), 1), (SHARE.format(mib=40, seconds=600), 3)])
def test_the_kernel_ends_a_child_that_holds_more_with_all_that_it_started(
    code: str, processes: int, tmp_path: Path, made: ControlGroups
) -> None:
    child, pids = run(code, tmp_path, made)
    assert (child.returncode, child.out_of_memory, child.pipe.tail) == (-signal.SIGKILL, True, [])
    assert len(pids) == processes
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in left), "what nobody has waited for yet"


@pytest.mark.parametrize("code", [TAKE.format(mib=32), SHARE.format(mib=16, seconds=0.2)])
def test_a_child_within_its_bound_ends_as_it_likes(code: str, tmp_path: Path, made: ControlGroups) -> None:
    child, _ = run(code, tmp_path, made)
    assert (child.returncode, child.out_of_memory, child.pipe.tail) == (0, False, [])


@pytest.fixture
def around(made: ControlGroups) -> Iterator[Path]:
    """Make a group that is delegated to a worker with a bound on it, as an operator would."""
    group = made.open(AROUND)
    assert group is not None
    (group.path / "memory.oom.group").write_text("0")  # as it is where nobody asked
    yield group.path
    ControlGroup(group.path / "espalier-worker").remove()
    group.remove()
    assert not group.path.exists()


def output_of(code: str, around: Path, folder: Path) -> Any:
    """Return what a program says that starts in a group."""
    command = die_with_parent([sys.executable, "-c", code], group=str(around))
    env = environment("fetch", folder, 1)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_worker_lives_in_a_bound_of_its_own_and_divides_it(around: Path, tmp_path: Path) -> None:
    base, own, sees, ends = output_of(WORKER, around, tmp_path)
    assert (base, Path(own).parts[-2:]) == (str(around), (around.name, "espalier-worker"))
    assert sees == AROUND
    # One in a group with more room than is left around it, and one beside the worker: the kernel ends no other for it.
    assert ends == [[-signal.SIGKILL, True]] * 2
    assert [path.name for path in around.iterdir() if path.is_dir()] == ["espalier-worker"]


def test_a_group_that_others_are_in_is_left_as_it_was(around: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            (around / "cgroup.procs").write_text(str(other.pid))
            refused, own = output_of(REFUSED, around, tmp_path)
            assert "cannot be divided" in refused
            assert Path(own).name == around.name
            assert str(other.pid) in (around / "cgroup.procs").read_text().split()
        finally:
            other.kill()
    assert [path for path in around.iterdir() if path.is_dir()] == []
