"""A model's folder in the cache, filled file by file from wherever its bytes come."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.integrations.shared.cache import Place
from app.integrations.shared.checkpoint import small_files, weight_names
from app.integrations.shared.sources import Access, SourceUnreachable, locked


@dataclass(frozen=True)
class RemoteFile:
    """One file elsewhere."""

    size: int
    read: Callable[[], Iterator[bytes]]
    ask_for: Callable[[], object]
    """Raises what `read` would raise for those who may not have it; nothing is read."""


def fill(place: Place, files: Mapping[str, RemoteFile], what: str, access: Access, *, convert: str) -> Path:
    """Bring the files of a model into a place, which keeps those that are whole: small ones first, then weights.

    Kept ones are asked for again: another project's login may have brought them.
    """
    small = small_files({name: file.size for name, file in files.items()}, what, convert=convert)
    proven: set[str] = set()
    _bring(place, files, small, access, proven)
    _bring(place, files, [*small, *weight_names(files, place.files, what)], access, proven)
    return place.files


def _bring(place: Place, files: Mapping[str, RemoteFile], names: list[str], access: Access, proven: set[str]) -> None:
    with locked(place.folder):
        place.files.mkdir(parents=True, exist_ok=True)
        have = place.whole()
        total, before = sum(files[name].size for name in names), 0
        for name in names:
            if name not in have:
                _copy(name, files[name], place.files, access, before, total)
                have.add(name)
                place.note_whole(have)
            elif name not in proven:
                files[name].ask_for()
            proven.add(name)
            before += files[name].size
            access.progress(before, total)
        place.used()


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
            raise SourceUnreachable(f"{name} did not arrive whole.", module=name)
        (folder / name).parent.mkdir(exist_ok=True)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
