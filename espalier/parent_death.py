"""Start a program that dies with its parent: `python parent_death.py PARENT_PID [OPTION]... COMMAND...`.

`--group=FOLDER` enters a control group, `--offline` leaves the network, `--memory=BYTES` bounds the data.

Run as a file with `-I -S`, so it costs a few milliseconds. A function given to `preexec_fn` would do the same
between fork and exec, where a process with threads may hold any lock: that hangs once in a thousand starts.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
AF_INET, SOCK_DGRAM = 2, 2
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def die_with_parent(
    command: Sequence[str], *, group: str | None = None, offline: bool = False, memory: int | None = None
) -> list[str]:
    """Return the command line that runs `command` until the calling thread ends, with `memory` bytes of data at most.

    The kernel watches the thread that starts the process: when that thread ends, the process is killed.
    """
    options = [
        *([f"--group={group}"] if group is not None else []),
        *(["--offline"] if offline else []),
        *([f"--memory={memory}"] if memory is not None else []),
    ]
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *options, *command]


def end_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(group: str) -> None:
    """Enter a control group, where all that this process starts will be; the bound on data holds without it too."""
    try:
        with open(f"{group}/cgroup.procs", "w") as file:  # noqa: PTH123
            file.write("0")
    except OSError as error:
        sys.stderr.write(f"no control group bounds this process: {error.strerror}\n")


def _leave_network(libc: ctypes.CDLL) -> None:
    """Enter a network namespace of a loopback alone, through a user namespace where that is needed; else stay."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (pathlib would double the start-up time)
                file.write(line)
    _raise_loopback(libc)


def _raise_loopback(libc: ctypes.CDLL) -> None:
    """Bring up `lo`, which is down in a new namespace: processes of one job talk over 127.0.0.1."""
    request = ctypes.create_string_buffer(
        b"lo".ljust(16, b"\0") + (IFF_UP | IFF_RUNNING).to_bytes(2, sys.byteorder), 40
    )
    socket = libc.socket(AF_INET, SOCK_DGRAM, 0)
    libc.ioctl(socket, SIOCSIFFLAGS, request)
    libc.close(socket)


def main(arguments: list[str]) -> None:
    """Ask the kernel to end this process with its parent, then become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    while command[0].startswith("--"):
        option, _, value = command.pop(0).partition("=")
        if option == "--group":
            _enter(value)
        elif option == "--offline":
            _leave_network(libc)
        elif option == "--memory":
            # Data, not address space: CUDA reserves more of that than any machine has memory, and maps files in it.
            resource.setrlimit(resource.RLIMIT_DATA, (int(value), int(value)))
    # After the namespaces: a change of credentials clears the signal.
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the signal was set
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 (the command is our own)


if __name__ == "__main__":
    main(sys.argv[1:])
