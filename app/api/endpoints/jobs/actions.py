"""Actions on an existing job: cancel, pause, resume, retry, clone, change, delete."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.api.deps import IdempotencyKeyHeader, JobId
from app.api.submitted import answer
from app.api.views import JobView, job_view
from app.bodies.control import JobPatch, Retry
from app.bodies.job import JobRequest
from app.bodies.merge_patch import merge_patch
from app.dependencies import ActorDep, ProjectDep, ResourcesDep
from app.platform.actor import Actor
from app.services.idempotency import Key
from app.services.jobs import control, reads, rights, submit
from app.services.resources import Resources

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_UNREAD: Final[dict[str, Any]] = {
    "source": {},
    "spec": {},
    "resolved_spec": None,
    "labels": {},
    "work_hash": None,
    "error": None,
    "gate": None,
    "result": None,
    "warnings": [],
}
"""Fields that an action leaves out of its answer to callers without `jobs:read`."""

Overrides = Annotated[
    dict[str, Any],
    Body(
        max_length=50,
        description="A JSON merge patch (RFC 7396) of the body that made the job: objects are merged, null removes.",
        examples=[{"name": "denser", "spec": {"prune": {"sparsity": 0.4}}}],
    ),
]


@router.post("/cancel")
def cancel_job(job_id: JobId, resources: ResourcesDep, actor: ActorDep) -> JobView:
    """End a job; a cancelled one stays cancelled."""
    control.cancel(resources, actor.project_id, job_id)
    return _readable_view(resources, actor, job_id)


@router.post("/pause")
def pause_job(job_id: JobId, resources: ResourcesDep, actor: ActorDep) -> JobView:
    """Pause a queued or running job: it keeps its checkpoints and holds no worker."""
    control.pause(resources, actor.project_id, job_id)
    return _readable_view(resources, actor, job_id)


@router.post("/resume")
def resume_job(job_id: JobId, resources: ResourcesDep, actor: ActorDep) -> JobView:
    """Queue a paused job again, to go on from its last checkpoint."""
    control.resume(resources, actor.project_id, job_id)
    return _readable_view(resources, actor, job_id)


@router.post("/retry")
def retry_job(
    job_id: JobId, resources: ResourcesDep, actor: ActorDep, body: Annotated[Retry | None, Body()] = None
) -> JobView:
    """Queue a failed, expired or cancelled job again, with other limits or priority if asked."""
    control.retry(resources, actor.project_id, job_id, body or Retry.model_validate({}))
    return _readable_view(resources, actor, job_id)


@router.post(
    "/clone",
    status_code=202,
    response_model=JobView,
    responses={200: {"model": JobView, "description": "An equal call was here before: its job as it is now."}},
)
def clone_job(
    job_id: JobId,
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    body: Overrides | None = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Queue a new job from the same body, with changes; takes `jobs:read` too, for the answer tells that body."""
    rights.require("jobs:read")
    merged = merge_patch(reads.job(resources.database, project, job_id).job.request, body or {})
    request.state.json, request.state.model = merged, JobRequest  # pointers of refusals lead into them
    try:
        clone = JobRequest.model_validate(merged)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in errors]) from None
    path = request.url.path
    key = Key.of(project, "POST", path, key=idempotency_key, body=body or {}) if idempotency_key else None
    submitted = submit.submit(resources, project, clone, merged, key, cloned_from=job_id).result()
    return answer(resources, project, submitted)


@router.patch("")
def change_job(job_id: JobId, body: JobPatch, resources: ResourcesDep, actor: ActorDep) -> JobView:
    """Change name and labels, or the priority of a job that waits."""
    control.change(resources, actor.project_id, job_id, body)
    return _readable_view(resources, actor, job_id)


@router.delete("", status_code=204)
def delete_job(job_id: JobId, resources: ResourcesDep, project: ProjectDep) -> None:
    """Forget a job that is over: its row, events, log, metrics and files."""
    control.delete(resources, project, job_id)


def _readable_view(resources: Resources, actor: Actor, job_id: str) -> JobView:
    """Show a job after an action, as far as its caller may read it."""
    view = job_view(reads.job(resources.database, actor.project_id, job_id))
    return view if rights.has(actor, "jobs:read") else view.model_copy(update=_UNREAD)
