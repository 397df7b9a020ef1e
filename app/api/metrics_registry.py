"""The metrics of all server processes of one service, so that Prometheus may scrape any one of them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client; set it where server processes are started by another process manager."""


class MetricsRegistry:
    """The metrics of one process, and those that it exposes: of all processes that share its folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.exposed = CollectorRegistry()
        self.local: CollectorRegistry | None = self.exposed
        """Where metrics of this process are registered; None where their files are read instead."""
        if folder is not None:
            os.environ[_FOLDER] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
            self.local = None
            MultiProcessCollector(self.exposed, path=str(folder))  # type: ignore[no-untyped-call]

    def read(self, name: str, *, fresh_seconds: float) -> Any | None:  # noqa: ANN401 - JSON
        """Return what some process wrote down lately under a name; None where that is too long ago."""
        if self.folder is None:
            return None
        path = self.folder / f"{name}.json"
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime <= fresh_seconds:
                return json.loads(path.read_text())
        return None

    def write(self, name: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Write something down for the other processes."""
        if self.folder is not None:
            part = self.folder / f"{name}.{os.getpid()}.part"
            part.write_text(json.dumps(value))
            part.replace(self.folder / f"{name}.json")


def of_this_process() -> MetricsRegistry:
    """Return the registry of a server process: shared with those that the same parent started, if one did."""
    if chosen := os.environ.get(_FOLDER):
        Path(chosen).mkdir(parents=True, exist_ok=True)
        return MetricsRegistry(Path(chosen))
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None:
        return MetricsRegistry()
    prefix = f"espalier-api-{os.getuid()}-"
    folder = Path(tempfile.gettempdir()) / f"{prefix}{_identity(parent.pid)}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user: set {_FOLDER} to a folder of this service")
    for old in folder.parent.glob(f"{prefix}*"):
        if _is_left_over(old.name.removeprefix(prefix)):
            shutil.rmtree(old, ignore_errors=True)
    return MetricsRegistry(folder)


def _identity(pid: int) -> str:
    """Return a name of a process that stays unique when its pid is used again."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = str(round(psutil.Process(pid).create_time()))
    return f"{pid}-{started}"


def _is_left_over(identity: str) -> bool:
    pid = int(identity.partition("-")[0])
    try:
        return _identity(pid) != identity
    except psutil.NoSuchProcess:
        return True
