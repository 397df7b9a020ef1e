"""A model's folder in the cache, filled file by file from wherever its bytes come."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.sources.base import Access, Unreachable, locked
from workers.sources.cache import COMPLETE, used_now
from workers.sources.checkpoint import small_files, weight_names
from workers.sources.digests import read_note, write_whole


@dataclass(frozen=True)
class RemoteFile:
    """One file elsewhere."""

    size: int
    read: Callable[[], Iterator[bytes]]


def fill(folder: Path, files: Mapping[str, RemoteFile], what: str, access: Access, *, convert: str) -> Path:
    """Bring the files of a model into a folder, which keeps those that are whole: small ones first, then weights."""
    small = small_files({name: file.size for name, file in files.items()}, what, convert=convert)
    _bring(folder, files, small, access)
    return _bring(folder, files, [*small, *weight_names(files, folder, what)], access)


def _bring(folder: Path, files: Mapping[str, RemoteFile], names: list[str], access: Access) -> Path:
    with locked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / COMPLETE
        noted = read_note(note)
        have = set(noted) if isinstance(noted, list) else set()
        total, before = sum(files[name].size for name in names), 0
        for name in names:
            if name not in have:
                _copy(name, files[name], folder, access, before, total)
                have.add(name)
                write_whole(note, json.dumps(sorted(have)).encode())
            before += files[name].size
            access.progress(before, total)
        used_now(note)
    return folder


def _copy(name: str, file: RemoteFile, folder: Path, access: Access, before: int, total: int) -> None:
    temporary, size = folder / f".{secrets.token_hex(8)}.part", 0
    try:
        with temporary.open("wb") as target:
            for chunk in file.read():
                target.write(chunk)
                size += len(chunk)
                if size > file.size:
                    break
                access.progress(before + size, total)
        if size != file.size:
            raise Unreachable(f"{name} did not arrive whole.", hint="The job tries again.", module=name)
        (folder / name).parent.mkdir(exist_ok=True)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
