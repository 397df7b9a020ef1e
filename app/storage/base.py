"""The interface of object stores: keys, bytes, checksums, and nothing about jobs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

CHUNK_BYTES = 2**20
_KEY = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[\w.@+=-]+(/[\w.@+=-]+)*", re.ASCII)


Between = Callable[[int], None]


def nothing(_num_bytes: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    key: str
    bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class PutUrl:
    """Where a client PUTs an object itself, and the headers that it must send."""

    url: str
    headers: dict[str, str]


class ObjectStore(ABC):
    """Objects by key; every failure is a StorageError of app.errors."""

    @abstractmethod
    def put_file(self, key: str, path: Path, sha256: str, *, between: Between = nothing) -> None:
        """Store a file; raises ChecksumMismatch, and stores nothing, when its bytes are not those of `sha256`.

        `between` hears now and then how many bytes are sent, and may raise to give up: then nothing is stored.
        """

    @abstractmethod
    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> None:
        """Store bytes; with `if_none_match` an existing key raises ObjectExists."""

    @abstractmethod
    def get_file(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Write an object to a path, whole or not at all; raises ChecksumMismatch when the bytes are not `sha256`'s."""

    @abstractmethod
    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the bytes of [start, end) in chunks; a missing object raises ObjectMissing at once."""

    @abstractmethod
    def head(self, key: str) -> int | None:
        """Return the size of an object in bytes; None when there is none."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Walk the objects whose key starts with `prefix`, sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def delete_prefix(self, prefix: str) -> int:
        """Remove every object whose key starts with `prefix`; return how many."""
        keys = [item.key for item in self.list(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    @abstractmethod
    def delete_unfinished(self, before: datetime) -> int:
        """Remove what uploads that were cut off before then left behind; return how many."""

    @abstractmethod
    def presign(self, key: str, *, filename: str, expires_seconds: int) -> str | None:
        """Return a short-lived URL that downloads the object under a file name; None when the store has no URLs."""

    @abstractmethod
    def presign_put(self, key: str, *, num_bytes: int, sha256: str, expires_seconds: int) -> PutUrl | None:
        """Return where a client stores exactly these bytes; None when the store has no URLs."""

    @abstractmethod
    def locate(self, key: str, *, expires_seconds: int) -> str:
        """Return a URL, `file:` or `https:`, at which a process without credentials reads the object."""

    @abstractmethod
    def check(self) -> None:
        """Raise StorageError when the store cannot be reached or its bucket is missing."""


def checked_key(key: str) -> str:
    """Return a key that every store can hold and none can leave; raises ValueError on any other."""
    # Not an assertion: names of files inside a model end up in keys. S3 holds up to 1024 bytes.
    if len(key) > 1000 or not _KEY.fullmatch(key):
        raise ValueError("store keys are relative paths of plain names")
    return key


def attachment(filename: str) -> str:
    """Return a Content-Disposition header that downloads under the last part of a path (RFC 6266)."""
    name = re.sub(r"[^\w.+-]", "_", filename.rsplit("/", 1)[-1], flags=re.ASCII)
    return f'attachment; filename="{name}"'
