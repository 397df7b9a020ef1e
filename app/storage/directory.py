"""The store of the embedded mode: a folder; an object is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from app.errors import ChecksumMismatch, ObjectExists, ObjectMissing, StorageError
from app.storage.base import CHUNK_BYTES, Between, ObjectStore, PutUrl, StoredObject, checked_key, nothing

_UNFINISHED = ".unfinished"
"""Folder of temporary files, on the same file system so that a rename is atomic; no key begins with it."""


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing from error
    except OSError as error:
        raise StorageError(f"The store's folder cannot be used: {os.strerror(error.errno or 0)}.") from error


class DirectoryStore(ObjectStore):
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with _typed():
            (self.root / _UNFINISHED).mkdir(parents=True, exist_ok=True)

    def put_file(self, key: str, path: Path, sha256: str, *, between: Between = nothing) -> None:
        """Copy to a temporary file, verify, rename."""
        with _typed(), self._replacing(self._path(key)) as target, path.open("rb") as source:
            _copy(source, target, sha256, between)

    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> None:
        """Write a temporary file, then rename it, or link it when the key must be new."""
        with _typed(), self._replacing(self._path(key), exclusive=if_none_match) as target:
            target.write(data)

    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Copy to a temporary neighbour, verify, rename."""
        with _typed(), self._path(key).open("rb") as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(path, path.parent) as target:
                _copy(source, target, sha256)

    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Open now, read while the caller iterates."""
        with _typed():
            source = self._path(key).open("rb")
            source.seek(start)
        return _chunks(source, None if end is None else end - start)

    def head(self, key: str) -> int | None:
        """Return the size of the file."""
        try:
            with _typed():
                return self._path(key).stat().st_size
        except ObjectMissing:
            return None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Walk the folder that the prefix names."""
        top = prefix.rpartition("/")[0]
        keys = sorted(
            (Path(folder) / name).relative_to(self.root).as_posix()
            # Not rglob, which raises when a neighbour removes a folder meanwhile.
            for folder, _, names in os.walk(self.root / top)
            for name in names
        )
        for key in keys:
            if key.startswith(prefix) and not key.startswith(_UNFINISHED):
                try:
                    status = (self.root / key).stat()
                except FileNotFoundError:
                    continue
                yield StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, tz=UTC))

    def delete(self, key: str) -> None:
        """Remove the file and the folders that it leaves empty."""
        path = self._path(key)
        with _typed():
            path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:  # not empty, or a neighbour was quicker
                break

    def delete_unfinished(self, before: datetime) -> int:
        """Remove temporary files of processes that were killed."""
        with _typed():
            old = [
                path for path in (self.root / _UNFINISHED).glob(".*.part") if path.stat().st_mtime < before.timestamp()
            ]
            for path in old:
                path.unlink(missing_ok=True)
        return len(old)

    def presign(self, key: str, *, filename: str, expires_seconds: int) -> str | None:  # noqa: ARG002
        """Return None: the API streams the file."""
        return None

    def presign_put(self, key: str, *, num_bytes: int, sha256: str, expires_seconds: int) -> PutUrl | None:  # noqa: ARG002
        """Return None: the API takes the bytes."""
        return None

    def locate(self, key: str, *, expires_seconds: int) -> str:  # noqa: ARG002
        """Return the file's own URL."""
        return self._path(key).as_uri()

    def check(self) -> None:
        """Try to write."""
        with _typed(), _replacing(self.root / _UNFINISHED / "check", self.root / _UNFINISHED):
            pass

    def _path(self, key: str) -> Path:
        return self.root / checked_key(key)

    @contextmanager
    def _replacing(self, path: Path, *, exclusive: bool = False) -> Iterator[BinaryIO]:
        with _replacing(path, self.root / _UNFINISHED, exclusive=exclusive) as target:
            yield target


@contextmanager
def _replacing(path: Path, folder: Path, *, exclusive: bool = False) -> Iterator[BinaryIO]:
    """Give a temporary file in `folder` that becomes `path` when the block ends well, durably."""
    temporary = folder / f".{secrets.token_hex(8)}.part"
    try:
        with temporary.open("wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        # A neighbour's delete may remove an empty folder between the two calls: then they are repeated.
        for last in (False, False, True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if exclusive:
                    os.link(temporary, path)
                else:
                    temporary.replace(path)
                break
            except FileExistsError:
                raise ObjectExists from None
            except FileNotFoundError:
                if last:
                    raise
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: BinaryIO, target: BinaryIO, sha256: str | None, between: Between = nothing) -> None:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
        between(target.tell())
    if sha256 is not None and digest.hexdigest() != sha256:
        raise ChecksumMismatch


def _chunks(source: BinaryIO, num_bytes: int | None) -> Iterator[bytes]:
    with source:
        while num_bytes is None or num_bytes > 0:
            with _typed():
                chunk = source.read(CHUNK_BYTES if num_bytes is None else min(CHUNK_BYTES, num_bytes))
            if not chunk:
                return
            if num_bytes is not None:
                num_bytes -= len(chunk)
            yield chunk
