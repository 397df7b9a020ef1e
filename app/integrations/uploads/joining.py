"""Files that a client sent in parts: joined in the cache, and checked against the hashes they were promised with."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict

from app.integrations.shared.cache import Place
from app.integrations.shared.sources import Access, SourceUnreachable, locked
from espalier.errors import Problem, SourceNotFound, UnsafeSource

CHUNK_BYTES: Final = 2**20


class UploadedFile(BaseModel):
    """One file, and where its parts are read: `file:` or `https:` URLs that need no credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int
    sha256: str
    parts: list[str]


class Uploaded(BaseModel):
    """One complete upload."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: list[UploadedFile]

    @property
    def revision(self) -> str:
        """A name of the content."""
        digest = hashlib.sha256()
        for file in sorted(self.files, key=lambda file: file.name):
            digest.update(f"{file.name} {file.sha256}\n".encode())
        return digest.hexdigest()


def find(upload_id: str, access: Access) -> Uploaded:
    """Return an upload; raises SourceNotFound."""
    upload = access.uploads.get(upload_id)
    if upload is None:
        raise SourceNotFound("There is no complete upload with this id.", hint="Uploads live in a service's project.")
    return Uploaded.model_validate(upload)


def absent(pointer: str, kind: str) -> Problem:
    """Return the refusal of an upload that is not there, or not of this kind."""
    return Problem(pointer, "no-such-upload", f"there is no complete upload of a {kind} with this id")


def join(upload_id: str, upload: Uploaded, access: Access) -> Path:
    """Return a folder with the files of an upload; it is kept for this upload alone.

    Hashes are promises, and no secret: whoever names those of somebody else's files has to bring the files.
    """
    place = Place.of(access.cache_dir, f"upload-{upload_id}", upload.revision)
    total, before = sum(file.bytes for file in upload.files), 0
    with locked(place.folder):
        if not place.whole():
            place.files.mkdir(parents=True, exist_ok=True)
            for file in upload.files:
                _join(file, place.files, access, before, total)
                before += file.bytes
            place.note_whole([file.name for file in upload.files])
        place.used()
    return place.files


def _join(file: UploadedFile, folder: Path, access: Access, before: int, total: int) -> None:
    temporary = folder / f".{secrets.token_hex(8)}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as target:
            for chunk in _chunks(file):
                digest.update(chunk)
                target.write(chunk)
                size += len(chunk)
                access.progress(before + size, total)
        if size != file.bytes or digest.hexdigest() != file.sha256:
            raise UnsafeSource(
                f"{file.name} is not the file that was promised: its hash differs.",
                hint="Upload it again.",
                module=file.name,
            )
        (folder / file.name).parent.mkdir(exist_ok=True)
        temporary.replace(folder / file.name)
    finally:
        temporary.unlink(missing_ok=True)


def _chunks(file: UploadedFile) -> Iterator[bytes]:
    for url in file.parts:
        parts = urlsplit(url)
        if parts.scheme == "file":
            yield from _local(Path(unquote(parts.path)), file.name)
            continue
        try:
            with httpx.stream("GET", url, timeout=60) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise SourceNotFound(
                        f"A part of {file.name} is not in the store any more.", hint="Upload it again."
                    )
                answer.raise_for_status()
                yield from answer.iter_bytes(CHUNK_BYTES)
        except httpx.HTTPError as error:
            raise SourceUnreachable(f"The store did not answer ({type(error).__name__}).") from None


def _local(path: Path, name: str) -> Iterator[bytes]:
    try:
        with path.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError:
        raise SourceNotFound(f"A part of {name} is not in the store any more.", hint="Upload it again.") from None
