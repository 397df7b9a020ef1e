"""Uploads: opened with the names and hashes of what will come, sent part by part, inspected when they are complete.

Parts are objects of their own, so that any store can take them and nothing is copied: whoever reads the upload joins
them and checks the whole against its hash.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.bodies.upload import PartRequest, UploadRequest
from app.db.queries.requests import uploads
from app.db.queries.tenancy import audit
from app.db.session import Database, clock
from app.db.upload import Upload
from app.errors import InvalidRequest, ModelRefused, NotFound, QuotaExceeded, UploadClosed, UploadIncomplete
from app.platform.ids import new_id
from app.services import idempotency
from app.services.admission.bounded import probe
from app.services.idempotency import Key
from app.services.resources import Resources
from app.services.tenancy import projects
from app.storage.base import ObjectStore, PutUrl
from espalier.documents.text_files import HEAD_BYTES, inspect_head
from espalier.errors import Problem, SourceRefused, UnsafeSource

PART_BYTES = 16 * 2**20
MAX_PARTS = 9_000
"""Of all files together, beside one for each file."""
MAX_OPEN = 100
"""Of a project: an upload that nobody sends is counted at every look."""
URL_SECONDS = 3600
MAX_HEADER_BYTES = 16 * 2**20
"""Of a safetensors file; all that the probe reads of weights."""
MAX_SMALL_BYTES = 64 * 2**20
"""Of any other file that the probe may want to read; of a larger one it sees the beginning."""
BEGINNING_BYTES = 64 * 2**10
MAX_INSPECTED_BYTES = 256 * 2**20
"""Bytes that the inspection of a model copies at most."""


@dataclass(frozen=True)
class UploadProgress:
    """Which parts of a file are there."""

    name: str
    bytes: int
    sha256: str
    parts: int
    received: list[int]


def create(resources: Resources, project_id: str, request: UploadRequest, *, key: Key | None = None) -> Upload:
    """Open an upload; raises QuotaExceeded."""
    total = sum(file.bytes for file in request.files)
    with resources.database.unit_of_work() as session:
        now = clock(session)
        row = Upload(
            id=new_id("upl"),
            project_id=project_id,
            kind=request.kind,
            name=request.name,
            state="open",
            files=[file.model_dump() for file in request.files],
            bytes=total,
            part_bytes=max(PART_BYTES, -(-total // MAX_PARTS)),
            facts=None,
            created_at=now,
            touched_at=now,
            completed_at=None,
        )
        idempotency.once(session, key, row.id, now=now)
        projects.admit_bytes(session, projects.locked(session, project_id), total)
        if uploads.count_open(session, project_id) >= MAX_OPEN:
            raise QuotaExceeded(f"The project has {MAX_OPEN} open uploads: complete or delete one.")
        session.add(row)
        audit.record(session, "upload.create", row.id, now=now)
    return row


def get(database: Database, project_id: str, upload_id: str) -> Upload:
    """Return an upload; raises NotFound."""
    with database.reading() as session:
        return _require(session, project_id, upload_id)


def page(database: Database, project_id: str, *, before: str | None, limit: int) -> Sequence[Upload]:
    """Return the uploads of a project, newest first."""
    with database.reading() as session:
        return uploads.page(session, project_id, before=before, limit=limit)


def get_open(database: Database, project_id: str, upload_id: str) -> Upload:
    """Return an upload that takes parts; raises NotFound, UploadClosed."""
    row = get(database, project_id, upload_id)
    if row.state != "open":
        raise UploadClosed
    return row


def progress(store: ObjectStore, row: Upload) -> list[UploadProgress]:
    """Return which parts of each file are there, whole."""
    here: dict[str, list[int]] = {file["name"]: [] for file in row.files}
    sizes = {file["name"]: file["bytes"] for file in row.files}
    for stored in store.list(row.prefix):
        name, _, number = stored.key.removeprefix(row.prefix).rpartition("/")
        # Only what was sent is counted: how much could be is a number of the client's.
        if name in here and number.isdecimal() and stored.bytes == row.part_size(sizes[name], int(number)):
            here[name].append(int(number))
    return [
        UploadProgress(
            file["name"], file["bytes"], file["sha256"], row.num_parts(file["bytes"]), sorted(here[file["name"]])
        )
        for file in row.files
    ]


def part(resources: Resources, project_id: str, upload_id: str, request: PartRequest) -> tuple[str, int, PutUrl | None]:
    """Return the key and size of a part, and where the store itself takes it; raises what must be refused."""
    with resources.database.unit_of_work() as session:
        row = _open(session, project_id, upload_id)
        key, size = place(row, request.file, request.number)
        row.touched_at = clock(session)
    return (
        key,
        size,
        resources.store.presign_put(key, num_bytes=size, sha256=request.sha256, expires_seconds=URL_SECONDS),
    )


def place(row: Upload, name: str, number: int) -> tuple[str, int]:
    """Return the key and the size of a part; raises InvalidRequest when the upload has no such part."""
    file = next((file for file in row.files if file["name"] == name), None)
    if file is None:
        raise InvalidRequest(items=[Problem("/file", "no-such-file", "the upload was not opened with this file")])
    parts = row.num_parts(file["bytes"])
    if not 1 <= number <= parts:
        raise InvalidRequest(items=[Problem("/number", "no-such-part", f"the file has {parts} parts")])
    return row.part_key(name, number), row.part_size(file["bytes"], number)


def keep_part(resources: Resources, row: Upload, key: str, file: Path, sha256: str) -> None:
    """Store a part that came through the service; raises NotFound where its upload was deleted meanwhile.

    Whoever deletes removes the row first and then what is stored: either of the two sees the part.
    """
    resources.store.put_file(key, file, sha256)
    try:
        get(resources.database, row.project_id, row.id)
    except NotFound:
        resources.store.delete(key)
        raise


def complete(resources: Resources, project_id: str, upload_id: str) -> Upload:
    """Close an upload whose parts are all there; a model is inspected first. Idempotent.

    Raises UploadIncomplete, or the refusal of the probe: then the upload stays open.
    """
    row = get(resources.database, project_id, upload_id)
    if row.state == "complete":
        return row
    missing = [
        Problem(f"/files/{index}", "parts-missing", f"{file.name}: {file.parts - len(file.received)} parts are missing")
        for index, file in enumerate(progress(resources.store, row))
        if len(file.received) < file.parts
    ]
    if missing:
        raise UploadIncomplete(items=missing)
    facts = None
    if row.kind == "model":
        facts = _inspect_model(resources.store, row)
    else:
        _inspect_text(resources.store, row)
    with resources.database.unit_of_work() as session:
        row = _require(session, project_id, upload_id, lock=True)
        row.state, row.facts, row.completed_at = "complete", facts, clock(session)
        audit.record(session, "upload.complete", row.id, now=row.completed_at)
    return row


def delete(resources: Resources, project_id: str, upload_id: str) -> None:
    """Remove an upload and its parts; jobs that have not fetched it yet will not find it."""
    with resources.database.unit_of_work() as session:
        row = _require(session, project_id, upload_id, lock=True)
        session.delete(row)
        audit.record(session, "upload.delete", row.id, now=clock(session))
    resources.store.delete_prefix(row.prefix)


def finished(database: Database, project_id: str, upload_id: str, kind: str) -> Upload | None:
    """Return a complete upload of a kind, or None."""
    with database.reading() as session:
        row = uploads.get(session, project_id, upload_id)
    return row if row is not None and row.state == "complete" and row.kind == kind else None


def located(store: ObjectStore, row: Upload, *, expires_seconds: int) -> dict[str, Any]:
    """Describe an upload to the fetcher: its files, and URLs of their parts, which need no credentials."""
    files = [
        file
        | {
            "parts": [
                store.locate(row.part_key(file["name"], number), expires_seconds=expires_seconds)
                for number in range(1, row.num_parts(file["bytes"]) + 1)
            ]
        }
        for file in row.files
    ]
    return {"files": files}


def _inspect_model(store: ObjectStore, row: Upload) -> dict[str, Any]:
    """Probe a model without its weights: sparse files with their headers are all that it reads."""
    left = MAX_INSPECTED_BYTES
    with tempfile.TemporaryDirectory(prefix="espalier-upload-") as folder:
        for file in row.files:
            left -= (wanted := _wanted(store, row, file))
            if left < 0:
                detail = f"What is no weight is larger than {MAX_INSPECTED_BYTES >> 20} MiB, headers included."
                raise ModelRefused(UnsafeSource(detail).at(""))
            path = Path(folder) / file["name"]
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as target:
                for chunk in _head(store, row, file, wanted):
                    target.write(chunk)
                target.truncate(file["bytes"])
        try:
            return probe(Path(folder), owner=row.project_id).model_dump(mode="json")
        except SourceRefused as error:
            raise ModelRefused(error.at("")) from error


def _inspect_text(store: ObjectStore, row: Upload) -> None:
    """Hold the first bytes of a data set against its name."""
    (file,) = row.files
    head = b"".join(_head(store, row, file, HEAD_BYTES))
    try:
        inspect_head(file["name"], head, whole=len(head) == file["bytes"])
    except SourceRefused as error:
        raise ModelRefused(error.at("/files/0")) from None


def _wanted(store: ObjectStore, row: Upload, file: dict[str, Any]) -> int:
    """Return how many bytes of a file the probe reads."""
    if file["name"].endswith(".safetensors"):
        prefix = b"".join(_head(store, row, file, 8))
        return min(int(file["bytes"]), 8 + min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES))
    return int(file["bytes"]) if file["bytes"] <= MAX_SMALL_BYTES else BEGINNING_BYTES


def _head(store: ObjectStore, row: Upload, file: dict[str, Any], num_bytes: int) -> Iterator[bytes]:
    number = 1
    while num_bytes > 0 and number <= row.num_parts(file["bytes"]):
        size = row.part_size(file["bytes"], number)
        yield from store.open(row.part_key(file["name"], number), 0, min(size, num_bytes))
        num_bytes, number = num_bytes - size, number + 1


def _open(session: Session, project_id: str, upload_id: str) -> Upload:
    row = _require(session, project_id, upload_id, lock=True)
    if row.state != "open":
        raise UploadClosed
    return row


def _require(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    row = uploads.get(session, project_id, upload_id, lock=lock)
    if row is None:
        raise NotFound
    return row
