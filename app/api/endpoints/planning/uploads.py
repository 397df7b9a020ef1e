"""Uploads: open, send parts (to the store itself, or through this service), complete, show, delete."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path as FilePath
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi import Query as FromQuery
from starlette.concurrency import run_in_threadpool

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.upload import PartRequest, UploadRequest
from app.db.upload import Upload
from app.dependencies import ProjectDep, ResourcesDep
from app.errors import BodyTooLarge, InvalidRequest
from app.services import uploads
from app.services.resources import Resources
from espalier.errors import Problem

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_BYTES = {"type": "string", "format": "binary"}
PartNumber = Annotated[int, Path(ge=1, le=10_000)]
UploadId = Annotated[str, Path(description="`upl_` and a ULID.")]


class FileView(View):
    """One file of an upload."""

    name: str
    bytes: int
    sha256: str
    parts: int
    received: list[int]
    """Numbers of the parts that are there; send the others."""


class UploadView(View):
    """A model or a data set on its way."""

    id: str
    kind: Literal["model", "dataset"]
    name: str
    state: Literal["open", "complete"]
    bytes: int
    part_bytes: int
    """Of every part but a file's last."""
    files: list[FileView]
    created_at: datetime
    completed_at: datetime | None


class UploadItemView(View):
    """An upload in a list."""

    id: str
    kind: Literal["model", "dataset"]
    name: str
    state: Literal["open", "complete"]
    bytes: int
    created_at: datetime
    completed_at: datetime | None


class PartView(View):
    """Instructions for sending one part."""

    method: Literal["PUT"]
    url: str
    """Of the object store, or of this service; relative in that case, and it takes the API key."""
    headers: dict[str, str]
    """To be sent with it."""
    bytes: int
    expires_at: datetime


def _view(resources: Resources, row: Upload) -> UploadView:
    files = [FileView.model_validate(file) for file in uploads.progress(resources.store, row)]
    fields = {name: getattr(row, name) for name in UploadView.model_fields if name != "files"}
    return UploadView(**fields, files=files)


@router.post("", status_code=201, responses=again(UploadView))
def create_upload(
    body: UploadRequest, response: Response, resources: ResourcesDep, project: ProjectDep, key: KeyDep
) -> UploadView:
    """Open an upload by the names, sizes and hashes of its files; it is aborted when nothing comes for a day."""
    row = replayed(
        response,
        lambda: uploads.create(resources, project, body, key=key),
        lambda made: uploads.get(resources.database, project, made),
    )
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return _view(resources, row)


@router.get("")
def list_uploads(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[UploadItemView]:
    """List uploads, newest first."""
    rows = uploads.page(resources.database, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, UploadItemView.model_validate, lambda row: row.id)


@router.get("/{upload_id}")
def get_upload(upload_id: UploadId, resources: ResourcesDep, project: ProjectDep) -> UploadView:
    """Show an upload and which parts of it are there."""
    return _view(resources, uploads.get(resources.database, project, upload_id))


@router.post("/{upload_id}/parts")
def create_part(upload_id: UploadId, body: PartRequest, resources: ResourcesDep, project: ProjectDep) -> PartView:
    """Ask how to send one part; a part that was sent before may be sent again."""
    _, size, direct = uploads.part(resources, project, upload_id, body)
    url = f"/v1/uploads/{upload_id}/files/{quote(body.file)}/parts/{body.number}"
    headers = {"Content-Type": "application/octet-stream", "X-Content-SHA256": body.sha256}
    expires = datetime.now(UTC) + timedelta(seconds=uploads.URL_SECONDS)
    if direct is not None:
        url, headers = direct.url, direct.headers
    return PartView(method="PUT", url=url, headers=headers, bytes=size, expires_at=expires)


@router.put(
    "/{upload_id}/files/{file:path}/parts/{number}",
    status_code=204,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}},
)
async def put_part(
    upload_id: UploadId,
    file: str,
    number: PartNumber,
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    sha256: Annotated[str, Header(alias="X-Content-SHA256", pattern=r"^[0-9a-f]{64}$")],
) -> None:
    """Take the bytes of one part, where the store takes none from clients."""
    row = await run_in_threadpool(uploads.get_open, resources.database, project, upload_id)
    key, size = uploads.place(row, file, number)
    # Nothing of it is done in the event loop: disks are slow at times.
    incoming = await run_in_threadpool(_Incoming, size)
    try:
        async for chunk in request.stream():
            await run_in_threadpool(incoming.take, chunk)
        if not await run_in_threadpool(incoming.is_whole, sha256):
            raise InvalidRequest(
                f"The part has {size} bytes of the given hash; {incoming.received} came.",
                items=[Problem("", "wrong-bytes", "send the part again")],
            )
        await run_in_threadpool(uploads.keep_part, resources, row, key, incoming.path, sha256)
    finally:
        await run_in_threadpool(incoming.discard)


class _Incoming:
    """The bytes of a part as they come, in a file that goes with the request."""

    def __init__(self, size: int) -> None:
        self._size, self._folder = size, tempfile.mkdtemp(prefix="espalier-part-")
        self.path, self.received, self._digest = FilePath(self._folder) / "part", 0, hashlib.sha256()
        self._file = self.path.open("wb")

    def take(self, chunk: bytes) -> None:
        """Write a chunk of the part; raises BodyTooLarge."""
        self.received += len(chunk)
        if self.received > self._size:
            raise BodyTooLarge(f"The part has {self._size} bytes.")
        self._digest.update(chunk)
        self._file.write(chunk)

    def is_whole(self, sha256: str) -> bool:
        """Tell whether the whole part has arrived, has the announced hash, and is on disk."""
        self._file.flush()
        return self.received == self._size and self._digest.hexdigest() == sha256

    def discard(self) -> None:
        """Remove the file."""
        self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


@router.post("/{upload_id}/complete")
async def complete_upload(upload_id: UploadId, resources: ResourcesDep, project: ProjectDep) -> UploadView:
    """Close an upload; a model that is unsafe or unsupported is refused here."""

    def close() -> UploadView:
        return _view(resources, uploads.complete(resources, project, upload_id))

    return await resources.closings.run(project, close)


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: UploadId, resources: ResourcesDep, project: ProjectDep) -> None:
    """Remove an upload and its parts."""
    uploads.delete(resources, project, upload_id)
