"""What the fetcher of an attempt is told: the sources, and the credentials of the job's project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from app.bodies.job import JobRequest
from app.db.job import Job
from app.db.session import Database
from app.services import uploads
from app.services.admission.admit import uploads_of
from app.services.tenancy import credentials
from app.settings import Settings
from app.storage.base import ObjectStore
from espalier.recipe.source import HuggingFaceSource, MlflowSource, S3Source
from workers.messages import FetchRequest

UPLOAD_URL_SECONDS: Final = 12 * 3600
"""Life of the URLs of an upload's parts: a fetcher may wait for another one that joins the same files."""


def fetch_request(
    database: Database, store: ObjectStore, settings: Settings, job: Job, request: JobRequest, workspace: Path
) -> FetchRequest:
    """Return the request of a claimed job's fetcher; a revision that was resolved before stays."""
    source = request.source
    if job.resolved_revision and isinstance(source, HuggingFaceSource):
        source = source.model_copy(update={"revision": job.resolved_revision})
    if job.resolved_revision and isinstance(source, MlflowSource):  # the alias may point elsewhere by now
        source = source.model_copy(update={"version": job.resolved_revision.partition("-")[0], "alias": None})
    return FetchRequest(
        job=request.model_copy(update={"source": source}), cache_dir=str(settings.cache),
        cache_max_bytes=settings.cache_max_bytes, workspace=str(workspace),
        roots=[str(root) for root in settings.roots], hf_endpoint=settings.hf_endpoint,
        hf_token=credentials.hub_token(database, settings, job.project_id),
        uploads=_uploads(database, store, job.project_id, request),
        refuse_outputs=job.initiator.get("type") == "hook",
        mlflow=credentials.mlflow_login(database, settings, job.project_id) if isinstance(source, MlflowSource) else {},
        s3=credentials.opened(database, settings, job.project_id, "s3") if isinstance(source, S3Source) else {},
        s3_endpoint_url=settings.publish_s3_endpoint_url,
    )  # fmt: skip


def _uploads(database: Database, store: ObjectStore, project_id: str, request: JobRequest) -> dict[str, Any]:
    """Where the parts of the uploads lie that the job names; those that are gone are left out."""
    found = {}
    for kind, upload_id in uploads_of(request):
        row = uploads.finished(database, project_id, upload_id, kind)
        if row is not None:
            found[upload_id] = uploads.located(store, row, expires_seconds=UPLOAD_URL_SECONDS)
    return found
