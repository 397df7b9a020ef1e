"""Where the worker's control group is delegated to it, and what becomes of the groups of its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from espalier.messages import Message
from espalier.parent_death import die_with_parent
from tests.fixtures.servers.control_groups import PretendKernel, fill
from tests.fixtures.workers.runs import Bench
from workers.processes import groups
from workers.processes.groups import ControlGroup, ControlGroups, NotDelegated
from workers.processes.memory import MemoryLimits
from workers.processes.process import Child, environment

SERVICE = "/system.slice/espalier.service"
OF_V1 = ["4:memory:/docker/1", "3:cpuset:/", "1:name=systemd:/docker/1"]
OTHER = 4194304
"""No machine gives this number to a process."""
HYBRID = {"v1": OF_V1, "mount": "/sys/fs/cgroup/unified", "controllers": "hugetlb"}


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        ({"v1": OF_V1, "own": ""}, "no control groups of version 2"),
        (HYBRID, "no memory controller"),
        ({"own": SERVICE, "controllers": "cpu pids"}, "no memory controller"),
        ({"own": SERVICE, "writable": False}, "cannot be divided: Read-only file system"),  # a container by default
        ({"own": SERVICE, "pids": [OTHER]}, "cannot be divided: Device or resource busy"),  # a shell's own scope
        ({"own": "/../other.service"}, "not mounted where it could be seen"),
        ({"own": SERVICE, "top": "/docker"}, "not mounted where it could be seen"),
    ],
)
def test_a_group_that_is_not_delegated_is_left_as_it_was(
    machine: dict[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PretendKernel(tmp_path, monkeypatch, **machine)  # type: ignore[arg-type]
    with pytest.raises(NotDelegated, match=reason):
        groups.delegated(tmp_path)
    assert os.getpid() in kernel.pids(kernel.own)
    assert kernel.groups() == []


@pytest.mark.parametrize(
    "machine",
    [
        {"own": SERVICE},  # systemd with Delegate=yes
        {"own": "/"},  # a namespace of its own, mounted to be written
        {"own": SERVICE, "top": "/system.slice"},  # a part of the tree, bound into a container
        {"own": "/", "pids": [1]},  # the init of the container goes along
    ],
)
def test_a_worker_leaves_the_group_that_it_divides(
    machine: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = PretendKernel(tmp_path, monkeypatch, **machine)  # type: ignore[arg-type]
    delegated = groups.delegated(tmp_path)
    assert delegated.base == kernel.own
    assert kernel.pids(kernel.own) == set()
    assert kernel.pids(kernel.own / "espalier-worker") == {os.getpid(), *machine.get("pids", [])}  # type: ignore[misc]
    assert (kernel.own / "cgroup.subtree_control").read_text() == "memory"
    # One that starts in the leaf, as the parts of `espalier serve` do, divides nothing anew.
    assert groups.delegated(tmp_path).base == kernel.own
    assert kernel.groups() == ["espalier-worker"]


def test_the_root_of_a_machine_is_divided_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = PretendKernel(tmp_path, monkeypatch, pids=[OTHER])
    (kernel.own / "cgroup.events").unlink()
    assert groups.delegated(tmp_path).base == kernel.own
    assert kernel.pids(kernel.own) == {os.getpid(), OTHER}


def test_the_log_tells_what_bounds_children_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = PretendKernel(tmp_path / "machine", monkeypatch, own=SERVICE)
    places = iter([tmp_path, tmp_path / "machine"])
    delegated = groups.delegated
    monkeypatch.setattr(groups, "delegated", lambda: delegated(next(places)))
    with capture_logs() as lines:
        assert groups.at_start() is None
        assert groups.at_start() is not None
    bare, grouped = lines
    assert (bare["event"], bare["reason"]) == (
        "the memory of children is bounded by RLIMIT_DATA alone",
        "this machine has no control groups of version 2",
    )
    assert (grouped["event"], grouped["path"]) == (
        "the memory of children is bounded by control groups",
        str(kernel.own),
    )


def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **machine: object) -> tuple[PretendKernel, ControlGroups]:
    kernel = PretendKernel(tmp_path / "machine", monkeypatch, own=SERVICE, **machine)  # type: ignore[arg-type]
    return kernel, groups.delegated(tmp_path / "machine")


def child(command: list[str], folder: Path, made: ControlGroups | None) -> Child:
    limits = MemoryLimits(held=3 * 2**20, data=2**30)
    env = environment("fetch", folder, 1)
    return Child(command, Message(), env=env, cwd=folder, offline=False, memory=limits, groups=made)


def test_a_child_enters_a_group_of_its_own_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made = divided(tmp_path, monkeypatch)
    name = f"espalier-{os.getpid()}-1"
    run = child([sys.executable, "-c", f"print(open('{kernel.own / name}/cgroup.procs').read())"], tmp_path, made)
    assert [(kernel.own / name / file).read_text() for file in ("memory.max", "memory.swap.max")] == [str(3 << 20), "0"]
    assert (kernel.own / name / "memory.oom.group").read_text() == "1"
    texts = []
    while not run.finished:
        texts += [message.text for message in run.pipe.take(wait_seconds=0.05)]  # type: ignore[union-attr]
    run.close()
    assert texts == ["not a message: 0"], "itself, whatever its number is where it runs"
    assert kernel.groups() == ["espalier-worker"]


def test_a_machine_that_makes_no_more_groups_runs_the_child_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, made = divided(tmp_path, monkeypatch)
    fill(kernel.own / "cgroup.subtree_control", "")  # taken back by whoever delegated it
    with capture_logs() as lines:
        run = child([sys.executable, "-c", "pass"], tmp_path, made)
    while not run.finished:
        run.pipe.take(wait_seconds=0.05)
    run.close()
    assert (run.returncode, run.pipe.tail) == (0, [])
    assert [line["event"] for line in lines] == ["a child runs without a control group"]
    assert kernel.groups() == ["espalier-worker"]


def test_a_child_that_cannot_be_started_leaves_no_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made = divided(tmp_path, monkeypatch)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: os.open(tmp_path / "no process more", os.O_RDONLY))
    with pytest.raises(FileNotFoundError):
        child(["true"], tmp_path, made)
    assert kernel.groups() == ["espalier-worker"]


def test_a_child_whose_group_is_gone_runs_within_its_other_bound(tmp_path: Path) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    command = die_with_parent([sys.executable, "-c", code], group=str(tmp_path / "gone"), memory=2**28)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(2**28)
    assert done.stderr.strip() == "no control group bounds this process: No such file or directory"


@pytest.mark.parametrize(("kills", "named"), [(0, "worker_lost"), (1, "host_oom")])
def test_a_job_that_the_kernel_killed_for_memory_is_told_from_one_that_others_killed(
    sqlite_bench: Bench, kills: int, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, made = divided(tmp_path, monkeypatch, oom_kills=kills)
    monkeypatch.setattr(groups, "counters", lambda: pytest.fail("what others lost is of no interest"))
    bench = sqlite_bench
    bench.services = replace(bench.services, groups=made)
    job = bench.work(bench.add("dies-always"))
    assert (job.state, job.failures) == ("queued", {named: 1})
    limits = [text for name, text in kernel.writes if name.endswith("memory.max")]
    assert len(limits) == 2, "the fetcher's and the compute child's"
    assert kernel.groups() == ["espalier-worker"]


def test_groups_of_dead_workers_are_removed_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, made = divided(tmp_path, monkeypatch)
    left_behind = subprocess.Popen(["sleep", "600"])
    mine, others = f"espalier-{os.getpid()}-7", f"espalier-{os.getppid()}-1"  # ours: the number came round again
    for name in (f"espalier-{OTHER}-1", mine, others, "system", "espalier-worker-2"):
        (kernel.own / name).mkdir()
    fill(kernel.own / f"espalier-{OTHER}-1/cgroup.procs", str(left_behind.pid))
    try:
        made.remove_stale()
        assert left_behind.wait(10) == -signal.SIGKILL
    finally:
        left_behind.kill()
    assert kernel.groups() == sorted(["espalier-worker", others, "system", "espalier-worker-2"])


def test_a_group_that_the_kernel_keeps_is_left_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, made = divided(tmp_path, monkeypatch)
    monkeypatch.setattr(groups, "END_SECONDS", 0.02)
    group = made.open(2**20)
    assert group is not None
    fill(group.path / "cgroup.procs", str(os.getppid()))
    (group.path / "cgroup.kill").unlink()  # an old kernel
    group.remove()
    assert group.path.exists()
    fill(group.path / "cgroup.procs", "")
    made.remove_stale()
    assert kernel.groups() == ["espalier-worker"]


def test_the_kernels_own_files_take_what_is_written() -> None:
    """Without limits, which take a memory controller: a child enters, what it left behind ends, the group goes."""
    mounts = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
    mount = next((path for path in mounts if (path / "cgroup.procs").is_file()), mounts[0])
    group = ControlGroup(mount / f"espalier-test-{os.getpid()}")
    try:
        group.path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group of our own here: {error}")
    code = "import subprocess\nprint(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    try:
        with subprocess.Popen(
            die_with_parent([sys.executable, "-c", code], group=str(group.path)), stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            stray = psutil.Process(int(child.stdout.readline()))
        assert group.path.name in Path(f"/proc/{stray.pid}/cgroup").read_text()
        assert group.oom_kills == 0
        with pytest.raises(OSError, match="busy"):
            group.path.rmdir()
    finally:
        group.remove()
    assert not group.path.exists()
    assert not stray.is_running() or stray.status() == psutil.STATUS_ZOMBIE
