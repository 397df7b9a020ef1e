"""Actions of forms on one job."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.responses import RedirectResponse, Response

from app.bodies.control import JobPatch, Retry
from app.dependencies import ProjectDep, ResourcesDep
from app.errors import InvalidRequest
from app.portal.deps import FormDep, needs
from app.portal.forms import Form
from app.services.jobs import control
from espalier.errors import Problem
from espalier.recipe.refusals import pointers

_Body = TypeVar("_Body", JobPatch, Retry)
router = APIRouter(prefix="/jobs/{job_id}")

_LIMITS = ("max_run_seconds", "max_pending_seconds", "max_device_memory_bytes", "max_host_memory_bytes")


@router.post("/cancel", dependencies=[needs("jobs:cancel")])
def cancel(job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """End a job."""
    control.cancel(resources, project, job_id)
    return _back(job_id)


@router.post("/pause", dependencies=[needs("jobs:cancel")])
def pause(job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Pause a job."""
    control.pause(resources, project, job_id)
    return _back(job_id)


@router.post("/resume", dependencies=[needs("jobs:cancel")])
def resume(job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Resume a job."""
    control.resume(resources, project, job_id)
    return _back(job_id)


@router.post("/retry", dependencies=[needs("jobs:write")])
def retry(job_id: str, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Queue a job again, with other limits where the form names some."""
    control.retry(resources, project, job_id, _retry_of(form))
    return _back(job_id)


@router.post("/change", dependencies=[needs("jobs:write")])
def change(job_id: str, form: FormDep, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Rename a job."""
    control.change(resources, project, job_id, _checked(JobPatch, {"name": form.get("name")}))
    return _back(job_id)


@router.post("/delete", dependencies=[needs("jobs:write")])
def delete(job_id: str, resources: ResourcesDep, project: ProjectDep) -> Response:
    """Forget a job that is over."""
    control.delete(resources, project, job_id)
    return RedirectResponse("/portal/jobs", 303)


def _retry_of(form: Form) -> Retry:
    limits = {name: _number(form.get(name)) for name in _LIMITS if form.get(name).strip()}
    request: dict[str, Any] = {"from": form.get("from") or "failed_phase"}
    request |= {"limits": limits} if limits else {}
    request |= {"priority": form.get("priority")} if form.get("priority") else {}
    return _checked(Retry, request)


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _checked(model: type[_Body], document: dict[str, Any]) -> _Body:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        items = [
            Problem(pointers.join(item["loc"]), str(item["type"]).replace("_", "-"), item["msg"])
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidRequest("Some fields of the form are invalid.", items=items) from None


def _back(job_id: str) -> Response:
    return RedirectResponse(f"/portal/jobs/{job_id}", 303)
