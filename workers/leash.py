"""Start a program that dies with its parent: `python leash.py PARENT_PID [--offline] COMMAND...`, then exec.

Run as a file with `-I -S`, so it costs a few milliseconds. A function given to `preexec_fn` would do the same
between fork and exec, where a process with threads may hold any lock: that hangs once in a thousand starts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def leashed(command: Sequence[str], *, offline: bool = False) -> list[str]:
    """Return the command line that runs `command` leashed to the calling thread.

    The kernel watches the thread that starts the process: when that thread ends, the process is killed.
    """
    flags = ["--offline"] if offline else []
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *flags, *command]


def _leave_network(libc: ctypes.CDLL) -> None:
    """Enter an empty network namespace, through a user namespace where that is needed; else stay as it is."""
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 (pathlib would double the start-up time)
            file.write(line)


def main(arguments: list[str]) -> None:
    """Leash this process to its parent and become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if command[0] == "--offline":
        command = command[1:]
        _leave_network(libc)
    # After the namespaces: a change of credentials clears the signal.
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the leash was on
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 (the command is our own)


if __name__ == "__main__":
    main(sys.argv[1:])
