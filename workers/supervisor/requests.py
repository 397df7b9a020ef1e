"""Build the requests of an attempt's children: sources and logins for the fetcher, neither for the compute child."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from app.bodies.job import JobRequest
from app.db.job import Job
from app.db.queries.jobs.reads import attempt_errors
from app.db.session import Database
from app.services import uploads
from app.services.admission.admit import systems_of, uploads_of
from app.services.tenancy import credentials
from app.settings import Settings
from app.storage.base import ObjectStore
from espalier.messages import ComputeRequest
from workers.messages import Fetched, FetchRequest, Resolved
from workers.processes import machine

_NO_MEMORY: Final = frozenset({"gpu_oom", "host_oom"})
UPLOAD_URL_SECONDS: Final = 12 * 3600
"""Life of the URLs of an upload's parts: a fetcher may wait for another one that joins the same files."""


def fetch_request(
    database: Database, store: ObjectStore, settings: Settings, job: Job, request: JobRequest, workspace: Path
) -> FetchRequest:
    """Return the request of a claimed job's fetcher; a revision that was resolved before stays."""
    source = request.source.at(job.resolved_revision) if job.resolved_revision else request.source
    systems = {
        kind: credentials.access(database, settings, job.project_id, kind, "fetch") for kind in systems_of(request)
    }
    return FetchRequest(
        job=request.model_copy(update={"source": source}),
        cache_dir=str(settings.cache),
        cache_max_bytes=settings.cache_max_bytes,
        workspace=str(workspace),
        roots=[str(root) for root in settings.roots],
        systems=systems,
        uploads=_uploads(database, store, job.project_id, request),
        refuse_outputs=job.initiator.get("type") == "hook",
    )


def compute_request(
    job: JobRequest, fetched: Fetched, resolved: Resolved, settings: Settings, workspace: Path
) -> ComputeRequest:
    """Return the request of a job whose model and texts lie here; makes the folder of the artifact."""
    artifact = workspace / "artifact"
    artifact.mkdir()
    return ComputeRequest(
        spec=resolved.parsed_spec.unpublished,
        model_dir=fetched.model_dir,
        revision=resolved.revision,
        source_name=job.source.model_name,
        dropped_keys=fetched.dropped_keys,
        datasets=fetched.datasets,
        sizes=resolved.facts.get("sizes"),
        workspace=str(workspace),
        artifact_dir=str(artifact),
        threads=machine.threads_of(settings, job.limits.gpus),
        ranks=job.limits.gpus or 1,
        in_pieces=job.limits.gpus is not None,
        tasks_dir=str(settings.tasks_dir.absolute()) if settings.tasks_dir else None,
        device=machine.device_of(settings),
        max_host_memory_bytes=job.limits.max_host_memory_bytes,
        max_device_memory_bytes=job.limits.max_device_memory_bytes,
    )


def ran_out(database: Database, job_id: str) -> dict[str, Any]:
    """Return the fields of a request that tell where earlier attempts of a job ran out of memory."""
    with database.reading() as session:
        errors = attempt_errors(session, job_id)
    errors = [error for error in errors if error["class"] in _NO_MEMORY and error["retryable"]]
    phases = Counter(error["phase"] for error in errors if error.get("phase"))
    return {"ran_out": dict(phases), "ran_out_on_host": any(error["class"] == "host_oom" for error in errors)}


def _uploads(database: Database, store: ObjectStore, project_id: str, request: JobRequest) -> dict[str, Any]:
    """Return where the parts of a job's uploads lie; uploads that were deleted are left out."""
    locations = {}
    for kind, upload_id in uploads_of(request):
        row = uploads.finished(database, project_id, upload_id, kind)
        if row is not None:
            locations[upload_id] = uploads.located(store, row, expires_seconds=UPLOAD_URL_SECONDS)
    return locations
