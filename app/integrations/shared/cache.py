"""The cache of sources and its cap: least recently used entries are evicted first, never those that a job may use.

A place holds one source at one revision: its files in a folder of their own, and beside that folder, where no source
can write, our notes about them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from app.integrations.shared.digests import read_note, write_whole

SOURCES: Final = "sources"
COMPLETE: Final = ".complete"
"""The note of a place: which files are whole; its time says when the place was last used."""
_NAMES: Final = TypeAdapter(list[str])
GRACE_SECONDS: Final = 3600.0
"""What was used so lately may be about to be linked into a workspace."""


@dataclass(frozen=True)
class _Entry:
    path: Path
    used: float
    bytes: int


@dataclass(frozen=True)
class Place:
    """Where a source's files lie at one revision; hold its lock to change it."""

    folder: Path

    @classmethod
    def of(cls, cache_dir: Path, source: str, revision: str) -> Place:
        """Return the place of a source, named without a slash, at a revision."""
        return cls(cache_dir / SOURCES / source / revision)

    @property
    def files(self) -> Path:
        """The folder of the source's own files."""
        return self.folder / "files"

    def whole(self) -> set[str]:
        """Return the names of the files that were downloaded completely."""
        return set(read_note(self.folder / COMPLETE, _NAMES) or ())

    def note_whole(self, names: Collection[str]) -> None:
        """Write down which files have come whole."""
        write_whole(self.folder / COMPLETE, json.dumps(sorted(names)).encode())

    def note(self, name: str) -> Path:
        """Return the path of a note about this entry."""
        return self.folder / f"{name}.json"

    def used(self) -> None:
        """Note that the place is used."""
        if (self.folder / COMPLETE).is_file():
            used_now(self.folder / COMPLETE)


def used_now(path: Path) -> None:
    """Note that something of the cache is used."""
    os.utime(path)


def linked(scratch: Path) -> set[Path]:
    """Return the files that the workspaces below a scratch folder link to."""
    links = [*scratch.glob("*/model/*"), *scratch.glob("*/text/*")]
    return {link.resolve() for link in links if link.is_symlink()}


def evict(cache_dir: Path, max_bytes: int, *, in_use: Collection[Path]) -> int:
    """Remove repositories and texts until the cache is below its cap, or all that is left is in use; return bytes."""
    entries = sorted(_entries(cache_dir), key=lambda entry: entry.used)
    excess, removed = sum(entry.bytes for entry in entries) - max_bytes, 0
    for entry in entries:
        if removed >= excess or time.time() - entry.used < GRACE_SECONDS:
            break
        if not any(path.is_relative_to(entry.path) for path in in_use):
            removed += entry.bytes if _remove(entry.path) else 0
    return removed


def _entries(cache_dir: Path) -> Iterator[_Entry]:
    cache_dir = cache_dir.resolve()
    # `hub`: what a version before this one has left, which nobody reads.
    for note in (*cache_dir.glob(f"{SOURCES}/*/*/{COMPLETE}"), *cache_dir.glob(f"hub/*/*/{COMPLETE}")):
        files = [file for file in note.parent.rglob("*") if file.is_file()]
        yield _Entry(note.parent, note.stat().st_mtime, sum(file.stat().st_size for file in files))
    for text in cache_dir.glob("text/*.txt"):
        status = text.stat()
        yield _Entry(text, status.st_mtime, status.st_size)


def _remove(path: Path) -> bool:
    """Remove a text, or a folder that nobody is filling."""
    if path.is_file():
        path.unlink(missing_ok=True)
        return True
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / COMPLETE).unlink(missing_ok=True)  # first: what is left of a killed removal is no whole folder
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(handle)
