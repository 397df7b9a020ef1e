"""sha256 of files, remembered by what tells that a file is still the same."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from espalier.model_files import content_sha256

CHUNK_BYTES = 2**22
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Form = TypeVar("_Form")


class _Digest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    same: list[str | int]
    """What tells that the file is still the one that was hashed."""
    sha256: Sha256


_DIGEST: Final = TypeAdapter(_Digest)


def sha256_of(path: Path) -> str:
    """Hash a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def remembered_sha256(path: Path, cache_dir: Path) -> str:
    """Hash a file, or return what it hashed to while its size, time and inode are the same."""
    status = path.stat()
    same: list[str | int] = [str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]
    note = cache_dir / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
    known = read_note(note, _DIGEST)
    if known is not None and known.same == same:
        return known.sha256
    digest = sha256_of(path)
    write_whole(note, json.dumps({"same": same, "sha256": digest}).encode())
    return digest


def remembered_content_sha256(folder: Path, cache_dir: Path) -> str:
    """Return a hash of the content of a model's folder, reading again only the files that have changed."""
    return content_sha256(folder, lambda path: remembered_sha256(path, cache_dir))


def read_note(path: Path, form: TypeAdapter[_Form]) -> _Form | None:
    """Return what a JSON file of ours holds; None when there is none, or none that has the form of such a note."""
    try:
        return form.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    temporary.write_bytes(data)
    temporary.replace(path)
