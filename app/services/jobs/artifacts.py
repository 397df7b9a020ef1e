"""Files of results: where they can be had, and which part of one a client asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import structlog
from sqlalchemy.exc import OperationalError

from app.db.queries.jobs import reads
from app.db.queries.tenancy import audit
from app.db.result import Artifact
from app.db.session import Database, clock
from app.errors import NotFound, ObjectMissing, RangeNotSatisfiable
from app.services.resources import Resources
from app.storage.base import ObjectStore

URL_SECONDS = 600
"""Life of a presigned URL: long enough to start a download, which may then go on."""
log = structlog.get_logger(__name__)
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


@dataclass(frozen=True)
class ByteRange:
    """Bytes [start, end) of a file."""

    start: int
    end: int


def get(database: Database, project_id: str, artifact_id: str) -> Artifact:
    """Return one file's row; raises NotFound."""
    with database.reading() as session:
        artifact = reads.artifact(session, project_id, artifact_id)
    if artifact is None:
        raise NotFound
    return artifact


def note_read(resources: Resources, action: Literal["list", "read", "download"], resource_id: str) -> None:
    """Record in the audit log that a result is viewed or downloaded; on a full disk, in the process log instead."""
    try:
        with resources.database.unit_of_work() as session:
            audit.record(session, f"artifact.{action}", resource_id, now=clock(session))
    except OperationalError as error:
        log.warning("a read leaves no audit row", action=action, resource_id=resource_id, error=type(error).__name__)


def url(store: ObjectStore, artifact: Artifact) -> str | None:
    """Return a short-lived URL of the file; None when the service has to stream it."""
    return store.presign(artifact.key, filename=artifact.name, expires_seconds=URL_SECONDS)


def read(store: ObjectStore, artifact: Artifact, part: ByteRange) -> Iterator[bytes]:
    """Return a part of the file in chunks; raises ObjectMissing before the first byte."""
    if store.head(artifact.key) != artifact.bytes:
        raise ObjectMissing("The file is not in the store any more.")
    return store.open(artifact.key, part.start, part.end)


def requested_part(header: str | None, num_bytes: int) -> ByteRange | None:
    """Read a Range header (RFC 9110, 14.2); None means the whole file: several ranges and other units are ignored.

    Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        part = ByteRange(max(num_bytes - int(suffix), 0), num_bytes)
    else:
        if last and int(last) < int(first):
            return None
        part = ByteRange(int(first), min(int(last) + 1, num_bytes) if last else num_bytes)
    if part.start >= part.end:
        raise RangeNotSatisfiable(headers={"Content-Range": f"bytes */{num_bytes}"})
    return part
