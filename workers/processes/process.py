"""One child process in a session of its own: one request on stdin, messages on stdout, log lines on stderr."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

import psutil
import structlog
from pydantic import BaseModel

from espalier.parent_death import die_with_parent
from workers.messages import MESSAGES, AnyMessage
from workers.processes.groups import ControlGroups, oom_kills
from workers.processes.memory import MemoryLimits
from workers.processes.pipe import MessageReader

INHERITED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONHASHSEED",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_CACHE_PATH",
    "CUDA_HOME",
    "PYTORCH_ALLOC_CONF",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "SSL_CERT_FILE",
    "COVERAGE_PROCESS_START",
)
"""All that a child gets of our environment: an allow-list, because secrets have no common name."""
INHERITED_BY_COMPUTE: Final = ("NCCL_", "CUDA_MPS_")
"""Beginnings of further names: how cards talk to each other, and the server through which processes share one."""
PROXIES: Final = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
)
ROOT: Final = Path(__file__).resolve().parents[2]
"""Where our packages lie; a child's working folder is not on its path."""
Side = Literal["fetch", "compute", "publish"]
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
KILL_SECONDS = 30.0
"""What the kernel may take to end a killed process: one that waits for a broken device may never end."""


log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Commands:
    """The command lines of the children: the one place where tests put their own."""

    fetch: Sequence[str] = (sys.executable, "-P", "-m", "workers.fetcher")
    compute: Sequence[str] = (sys.executable, "-P", "-m", "workers.child")
    publish: Sequence[str] = (sys.executable, "-P", "-m", "workers.publisher")
    device: Sequence[str] = (sys.executable, "-P", "-m", "workers.device_check")


def environment(side: Side, workspace: Path, threads: int) -> dict[str, str]:
    """Return the environment of a child: nothing secret, private temporary files, no Hub for the compute side."""
    families = [name for name in os.environ if name.startswith(INHERITED_BY_COMPUTE)]
    names = (*INHERITED, *families) if side == "compute" else (*INHERITED, *PROXIES)
    temporary = workspace / "tmp"
    temporary.mkdir(exist_ok=True)
    ours = {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
        "HF_HOME": str(workspace / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if side == "publish":
        ours["HF_HUB_DISABLE_XET"] = "1"  # a mirror may not speak it, and every Hub takes LFS
    if side == "compute":
        ours |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        ours["MALLOC_ARENA_MAX"] = "1"  # what one thread gave back in its arena, no other could take
        if "CUDA_DEVICE_ORDER" not in os.environ:
            ours["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi, which cards.py reads
    return {name: os.environ[name] for name in names if name in os.environ} | ours


class Child:
    """A running child process; `pipe` has what it writes."""

    def __init__(
        self,
        command: Sequence[str],
        request: BaseModel,
        *,
        env: Mapping[str, str],
        cwd: Path,
        offline: bool,
        memory: MemoryLimits | None = None,
        groups: ControlGroups | None = None,
    ) -> None:
        self._group = groups.open(memory.held) if groups and memory else None
        self._kills = 0 if self._group else oom_kills()
        self.out_of_memory = False
        """Whether the kernel ended it for want of memory; known once it is closed."""
        prefix = die_with_parent(
            command,
            offline=offline,
            group=str(self._group.path) if self._group else None,
            memory=memory.data if memory else None,
        )
        try:
            self._process = subprocess.Popen(
                prefix,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError:
            if self._group:
                self._group.remove()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        payload = request.model_dump_json(by_alias=True).encode() + b"\n"
        self._asking = threading.Thread(target=_write, args=(self._process.stdin, payload), daemon=True)
        self._asking.start()
        self.pipe: MessageReader[AnyMessage] = MessageReader(
            self._process.stdout, self._process.stderr, MESSAGES.validate_json
        )

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group and session."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all its threads and processes so far; 0 when it is gone."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        pids = [self.pid]
        with contextlib.suppress(OSError):
            pids += map(int, children.read_text().split())
        seconds = 0.0
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                seconds += sum(psutil.Process(pid).cpu_times()[:4])  # of those that ended, too
        return seconds

    @property
    def finished(self) -> bool:
        """True when the child is gone and everything it said has been taken."""
        if self._process.poll() is None:
            return False
        # What it left behind may hold its pipes open, and would be waited for without end.
        self.signal(signal.SIGKILL)
        return self.pipe.drained

    def terminate(self) -> None:
        """End the child's whole group: SIGTERM, and SIGKILL after five seconds."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            self.pipe.take(wait_seconds=0.02)  # keeps the pipe moving, so that it can end
        self.kill()

    def kill(self) -> bool:
        """End the child's whole group at once, and whatever it left behind in it; False when the kernel keeps it."""
        self.pipe.abandon()
        self.signal(signal.SIGKILL)
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("a child cannot be ended: it waits inside the kernel", pid=self.pid)
            return False
        return True

    def close(self) -> None:
        """Make sure that nothing of the child is left; one that cannot be ended keeps its pipes and its group."""
        ended = self.kill()
        self.out_of_memory = self._group.oom_kills > 0 if self._group else oom_kills() > self._kills
        if not ended:
            return
        if self._group:
            self._group.remove()
        self._asking.join(1)
        self.pipe.join(1)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()

    def signal(self, number: int) -> None:
        """Send a signal to the child and all that it started."""
        # The group outlives its leader when a grandchild does, so the leader's exit does not end the duty.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _write(pipe: IO[bytes], payload: bytes) -> None:
    with contextlib.suppress(OSError), pipe:
        pipe.write(payload)
