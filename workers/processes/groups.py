"""Control groups of version 2: one per child with its own limit, where the worker's own group is delegated to it.

A group that has processes cannot divide its memory, so the worker moves into a leaf of its own group. Beside that lie
the groups of its children: `espalier-worker`, and `espalier-<pid of the worker>-<number>`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import psutil
import structlog

_LEAF: Final = "espalier-worker"
_OF_A_CHILD: Final = re.compile(r"espalier-(\d+)-\d+", re.ASCII)
_HAS_PROCESSES: Final = (errno.EBUSY, errno.EOPNOTSUPP)
"""What a group that has processes answers when it is to be divided."""
END_SECONDS: Final = 2.0
"""What the processes of a group may take to end once they are killed."""

log = structlog.get_logger(__name__)


class NotDelegated(Exception):
    """The worker may not divide its own group; the message says why."""


class ControlGroup:
    """The group of one child, all that it started included."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def oom_kills(self) -> int:
        """How many of its processes the kernel killed for want of memory, under any group's limit."""
        return _oom_kills(self.path / "memory.events")

    def remove(self) -> None:
        """End what is left in it and remove it; what the kernel keeps is left to the next worker that starts."""
        with contextlib.suppress(OSError):  # of Linux 5.14 and later
            (self.path / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + END_SECONDS
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    log.warning("a control group stays for now", path=str(self.path), error=error.strerror)
                    return
                time.sleep(0.01)
            else:
                return


class ControlGroups:
    """Makes the groups of children below one that is divided."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._numbers = itertools.count(1)

    def open(self, max_bytes: int) -> ControlGroup | None:
        """Make a group that may hold so many bytes; None, and a warning, where the kernel makes none."""
        group = ControlGroup(self.base / f"espalier-{os.getpid()}-{next(self._numbers)}")
        try:
            group.path.mkdir()
            (group.path / "memory.max").write_text(str(max_bytes))
            (group.path / "memory.oom.group").write_text("1")  # half a job is of no use
            if (swap := group.path / "memory.swap.max").exists():
                swap.write_text("0")
        except OSError as error:
            log.warning("a child runs without a control group", path=str(group.path), error=error.strerror)
            group.remove()
            return None
        return group

    def remove_stale(self) -> None:
        """Remove the groups of children whose worker is gone."""
        for path in list(self.base.iterdir()):
            if of_a_child := _OF_A_CHILD.fullmatch(path.name):
                worker = int(of_a_child[1])
                if worker == os.getpid() or not psutil.pid_exists(worker):
                    log.info("a control group of a dead worker's child is removed", path=str(path))
                    ControlGroup(path).remove()


def at_start() -> ControlGroups | None:
    """Return the groups for the children of a process that starts, or None; the log tells what holds them, and why."""
    try:
        groups = delegated()
    except NotDelegated as refusal:
        log.info("the memory of children is bounded by RLIMIT_DATA alone", reason=str(refusal))
        return None
    groups.remove_stale()
    log.info("the memory of children is bounded by control groups", path=str(groups.base))
    return groups


def delegated(root: Path = Path("/")) -> ControlGroups:
    """Divide the group of this process and return what makes groups below it; raises NotDelegated."""
    own = _own(root)
    base = own.parent if own.name == _LEAF else own
    controllers = base / "cgroup.controllers"
    if not controllers.is_file() or "memory" not in controllers.read_text().split():
        raise NotDelegated("the worker's control group has no memory controller")
    try:
        _divide(base)
    except OSError as error:
        raise NotDelegated(f"the worker's control group cannot be divided: {error.strerror}") from error
    return ControlGroups(base)


def _own(root: Path) -> Path:
    """Return the folder of this process's group."""
    unified = [line for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")]
    if not unified:
        raise NotDelegated("this machine has no control groups of version 2")
    name = PurePosixPath(unified[0].removeprefix("0::"))
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        top, place = mount.split()[3:5]
        if kind.startswith("cgroup2 ") and name.is_relative_to(top) and ".." not in name.parts:
            return root / place.lstrip("/") / name.relative_to(top)
    raise NotDelegated("the worker's control group is not mounted where it could be seen")


def _divide(base: Path) -> None:
    """Enable memory limits for the groups below; this process moves into a leaf group where it must."""
    switch = base / "cgroup.subtree_control"
    try:
        switch.write_text("+memory")
    except OSError as error:
        if error.errno not in _HAS_PROCESSES:
            raise
    else:
        return
    leaf = base / _LEAF
    leaf.mkdir(exist_ok=True)
    try:
        _move(base, leaf)
        switch.write_text("+memory")
    except OSError:  # another process is in it: restore
        _move(leaf, base)
        with contextlib.suppress(OSError):
            leaf.rmdir()
        raise


def _move(source: Path, target: Path) -> None:
    """Move this process, and the init of its container, from one group to another."""
    there = {int(pid) for pid in (source / "cgroup.procs").read_text().split()}
    for pid in there & {1, os.getpid()}:
        (target / "cgroup.procs").write_text(str(pid))


def oom_kills() -> int:
    """Return how many processes of our control group the kernel killed for want of memory; of the machine without one.

    A kill is counted in the group of the one that was killed, whoever's limit it was: a child without one is in ours.
    """
    return next((_oom_kills(file) for file in counters() if file.is_file()), 0)


def _oom_kills(file: Path) -> int:
    return sum(int(line.split()[1]) for line in _lines(file) if line.startswith("oom_kill "))


def counters() -> Iterator[Path]:
    """Return the files in which the kernel counts its out-of-memory kills."""
    for group in own_groups():
        yield group / "memory.events"
        yield group / "memory.oom_control"
    yield Path("/proc/vmstat")


def limits() -> Iterator[int]:
    """Yield every limit on the memory of our control group, and of those that it lies in."""
    for group in own_groups():
        for around in (group, *group.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                yield from (int(line) for line in _lines(around / name) if line.isdecimal())


def own_groups() -> Iterator[Path]:
    """Yield where our control group may lie, of either version, the likeliest first."""
    top = Path("/sys/fs/cgroup")
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield top / path.lstrip("/")
        elif "memory" in controllers.split(","):
            yield top / "memory" / path.lstrip("/")
    yield top  # a container may see no more than its own group, under another name
    yield top / "memory"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []
