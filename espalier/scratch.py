"""Make an output in a hidden folder beside it; folders of dead processes are removed by the next run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOCK: Final = ".espalier-lock"
"""In every such folder; its lock is the kernel's, which ends with the process that made the folder, however it ends."""


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Make a folder beside `target` for the time of the context; those that dead processes left there are removed."""
    _remove_leftovers(target)
    while (made := _locked(Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent)))) is None:
        pass  # another process took it for a leftover before its lock was held
    folder, lock = made
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _locked(folder: Path) -> tuple[Path, int] | None:
    """Lock a new folder; None where it was removed meanwhile."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks: no process can take this folder for abandoned
        fcntl.flock(lock, fcntl.LOCK_EX)
    if (folder / LOCK).exists():
        return folder, lock
    os.close(lock)
    return None


def _remove_leftovers(target: Path) -> None:
    """Remove folders of this output whose lock nobody holds; one without a lock in it may be anybody's."""
    ours = re.compile(rf"\.{re.escape(target.name)}-\w{{8}}", re.ASCII)
    with os.scandir(target.parent) as entries:
        leftovers = [
            Path(each.path) for each in entries if ours.fullmatch(each.name) and each.is_dir(follow_symlinks=False)
        ]
    for folder in leftovers:
        with contextlib.suppress(OSError):
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last, so that a removal cut short is recognised as ours and repeated."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
