"""The working folder of one attempt: locked while its process lives, and removed afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
from pathlib import Path

import structlog

_OURS = re.compile(r"(job_\w+|run|device)-a\d+\.lock", re.ASCII)

CHECK_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Workspace:
    """A folder of its own below the scratch folder; use as a context manager.

    The lock lies beside the folder and is the kernel's: it ends with the process, however that ends.
    """

    def __init__(self, scratch: Path, job_id: str, fence: int) -> None:
        self.path = scratch / f"{job_id}-a{fence}"
        self._lock_file = self.path.with_suffix(".lock")
        self._lock = -1

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700)
        return self.path

    def __exit__(self, *_: object) -> None:
        _remove(self.path, self._lock_file)
        os.close(self._lock)


class DiskQuota:
    """Cap on the total size of all workspaces of a scratch folder, measured every few seconds."""

    def __init__(self, scratch: Path, max_bytes: int) -> None:
        self._scratch, self._max_bytes = scratch, max_bytes
        self._looked = 0.0

    def check(self) -> None:
        """Raise the error of a full disk when the cap is exceeded."""
        if time.monotonic() - self._looked > CHECK_SECONDS:
            self._looked = time.monotonic()
            if _bytes_below(self._scratch) > self._max_bytes:
                raise OSError(errno.EDQUOT, "the cap of the scratch folder is passed")


def _bytes_below(scratch: Path) -> int:
    """Return the size of the files in our folders; the targets of links are not counted."""
    total = 0
    for lock_file in (file for file in scratch.glob("*.lock") if _OURS.fullmatch(file.name)):
        for folder, _, names in os.walk(lock_file.with_suffix("")):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    total += os.lstat(Path(folder) / name).st_size
    return total


def remove_leftovers(scratch: Path) -> int:
    """Remove the folders of attempts whose process is gone; return how many."""
    removed = 0
    # The scratch folder may be shared, even /tmp: only names of our pattern are removed.
    for lock_file in (file for file in scratch.glob("*.lock") if _OURS.fullmatch(file.name)):
        with contextlib.suppress(OSError):
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock_file.with_suffix(""), lock_file)
                removed += 1
            finally:
                os.close(lock)
    if removed:
        log.info("leftovers of dead attempts removed", count=removed)
    return removed


def _remove(folder: Path, lock_file: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_file.unlink(missing_ok=True)


def inside(folder: Path, relative: str) -> Path:
    """Return a regular file that a child named, or raise ValueError: a child that runs wild may name any path."""
    path = folder / relative
    if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"the child named {relative!r}, which is no regular file of its workspace")
    return path
