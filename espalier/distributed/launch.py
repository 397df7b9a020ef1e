"""Start the ranks of a job on this machine with torch's elastic launcher: one group, no restarts, no rank left behind.

A rank is forked from a process that has imported what ranks need and has no threads. The launcher's rendezvous and the
ranks meet on the loopback.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from typing import Any, Final

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from espalier.parent_death import end_with_parent

LOOPBACK: Final = "127.0.0.1"
WATCH_SECONDS: Final = 0.1
"""Interval at which ranks are looked after."""
SHORT: Final = "/tmp"  # noqa: S108 - a folder of its own is made in it
MAX_FOLDER: Final = 60
"""Letters of the folder for temporary files: the name of a socket has 107, of which some forty come behind it."""
END_SECONDS: Final = 2
"""What the other ranks may take to end once one has failed, before they are killed."""


FORKS_GONE: Final = 255
"""Exit status that multiprocessing gives a rank whose forking process is gone; the rank is killed with it."""


class RankEndedError(Exception):
    """A rank ended before its work did, or the launcher was told to end; all ranks are ended."""

    def __init__(self, text: str | None, *, number: int | None) -> None:
        super().__init__(text or f"signal {number}")
        self.text = text
        """The text of the `RankFailedError` that it raised; None where a signal ended it."""
        self.number = number
        """Of the signal; None where it ended by itself."""


class RankFailedError(Exception):
    """Raised by the work of a rank, with a text for who launched it."""


def launch(size: int, work: Callable[..., object], *args: object, preload: Sequence[str]) -> None:
    """Call `work(*args)` in every rank of a new group, where `joined` finds the others; return when all are done.

    `work` and its arguments travel pickled, and no argument may be a text (the launcher replaces macros in it).
    `preload`: modules that every rank imports. Raises RankEndedError.
    """
    multiprocessing.set_forkserver_preload(list(preload))
    _start_forks()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=f"ranks-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
        monitor_interval=WATCH_SECONDS,
        start_method="forkserver",
        shutdown_timeout=END_SECONDS,
    )
    try:
        elastic_launch(config, enter)(work, *args)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0 or failure.exitcode == FORKS_GONE:
            number = signal.SIGKILL if failure.exitcode == FORKS_GONE else -failure.exitcode
            raise RankEndedError(None, number=number) from None
        raise RankEndedError(_text(failure), number=None) from None
    except SignalException as told:  # to this process, while torch's handlers stood
        raise RankEndedError(None, number=told.sigval) from None


def _start_forks() -> None:
    """Start the process that forks: its socket lies where the path is short, as a workspace's may not be."""
    before = tempfile.tempdir
    if len(tempfile.gettempdir()) > MAX_FOLDER and os.access(SHORT, os.W_OK):
        tempfile.tempdir = SHORT
    try:
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = before


def enter(work: Callable[..., object], *args: object) -> None:
    """Begin as a rank: end with who started this process, see one card, and talk over the loopback."""
    end_with_parent()  # the process that forks; it outlives the launcher for as long as ranks do
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    number = int(os.environ["LOCAL_RANK"])
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(number + 1)))).split(",")
    # One card alone is seen: threads begin on the first one, whatever card the others compute on.
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[number] if number < len(cards) else ""
    work(*args)


def _end_with_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _text(failure: Any) -> str | None:  # noqa: ANN401 - of a module of torch without types
    """Return what a rank said in its `RankFailedError`; None for anything else."""
    message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
    kind, _, text = message.partition(": ")
    return text if kind == RankFailedError.__name__ else None
