"""Artifacts: list, show, download."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi import Query as FromQuery
from starlette.responses import RedirectResponse, StreamingResponse

from app.api.deps import ArtifactId, JobId, PagerDep
from app.api.paging import Page, PageQuery
from app.api.views import ArtifactView, artifact_view
from app.db.result import Artifact
from app.dependencies import ProjectDep, ResourcesDep
from app.services.jobs import artifacts, reads
from app.services.resources import Resources
from app.storage.base import attachment

router = APIRouter(prefix="/v1", tags=["artifacts"])


@router.get("/jobs/{job_id}/artifacts")
def list_artifacts(
    job_id: JobId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[ArtifactView]:
    """List the files of a job's result."""
    after = pager.position(query) or ""
    rows = reads.artifacts(resources.database, project, job_id, after=after, limit=query.limit + 1)
    artifacts.note_read(resources, "list", job_id)
    return pager.page(query, rows, artifact_view, lambda row: row.id)


@router.get("/artifacts/{artifact_id}")
def get_artifact(artifact_id: ArtifactId, resources: ResourcesDep, project: ProjectDep) -> ArtifactView:
    """Show a file."""
    artifact = artifacts.get(resources.database, project, artifact_id)
    artifacts.note_read(resources, "read", artifact.id)
    return artifact_view(artifact)


@router.head("/artifacts/{artifact_id}/download", include_in_schema=False)
@router.get(
    "/artifacts/{artifact_id}/download",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": {"application/octet-stream": {}}},
        206: {"description": "The part that Range asks for.", "content": {"application/octet-stream": {}}},
        304: {"description": "The client has this file."},
        307: {"description": "A URL that works for ten minutes."},
    },
)
def download_artifact(
    artifact_id: ArtifactId,
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    range_: Annotated[str | None, Header(alias="Range", max_length=1000)] = None,
) -> Response:
    """Download a file: from the object store where it has URLs, else from here."""
    artifact = artifacts.get(resources.database, project, artifact_id)
    artifacts.note_read(resources, "download" if request.method == "GET" else "read", artifact.id)
    if url := artifacts.url(resources.store, artifact):
        return RedirectResponse(url, 307, {"Cache-Control": "no-store"})
    return _stream(resources, artifact, request, range_)


def _stream(resources: Resources, artifact: Artifact, request: Request, range_: str | None) -> Response:
    etag = f'"{artifact.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-transform",
        "Content-Disposition": attachment(artifact.name),
    }
    if (known := request.headers.get("if-none-match", "")).strip() == "*" or etag in known:
        return Response(status_code=304, headers=headers)
    # If-Range: a part of another file than the one that the client knows would not fit to what it has.
    current = request.headers.get("if-range", etag) == etag
    part = artifacts.requested_part(range_, artifact.bytes) if current else None
    whole = artifacts.ByteRange(0, artifact.bytes)
    if part:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{artifact.bytes}"
    shown = part or whole
    headers["Content-Length"] = str(shown.end - shown.start)
    chunks = artifacts.read(resources.store, artifact, shown if request.method == "GET" else artifacts.ByteRange(0, 0))
    return StreamingResponse(chunks, 206 if part else 200, headers, media_type="application/octet-stream")
