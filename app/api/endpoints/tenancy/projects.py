"""Projects, with their quotas and usage."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Query as FromQuery

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.access import (
    ProjectChange,
    ProjectRequest,
    Quotas,
)
from app.db.tenancy import Project
from app.dependencies import ActorDep, ProjectDep, ResourcesDep
from app.services.tenancy import projects

router = APIRouter(prefix="/v1", tags=["tenancy"])


class ProjectView(View):
    """A tenant."""

    id: str
    name: str
    quotas: Quotas
    shared_logins: list[str]
    allow_high_priority: bool
    """Whether its jobs may ask for priority `high`."""
    created_at: datetime


class UsageView(View):
    """The current holdings of a project, and its usage in this calendar month (UTC)."""

    project_id: str
    month: str
    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    gpu_seconds: float
    cpu_seconds: float
    attempts: int
    quotas: Quotas


def _project(row: Project) -> ProjectView:
    return ProjectView(
        id=row.id,
        name=row.name,
        quotas=Quotas(**row.quotas),
        shared_logins=row.shared_logins,
        allow_high_priority=row.allow_high_priority,
        created_at=row.created_at,
    )


@router.post("/projects", status_code=201, responses=again(ProjectView))
def create_project(
    body: ProjectRequest, response: Response, actor: ActorDep, resources: ResourcesDep, key: KeyDep
) -> ProjectView:
    """Make a project; for admins of the default project."""
    row = replayed(
        response,
        lambda: projects.create(resources.database, actor, body, key=key),
        lambda made: projects.get(resources.database, actor, made),
    )
    response.headers["Location"] = f"/v1/projects/{row.id}"
    return _project(row)


@router.get("/projects")
def list_projects(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, actor: ActorDep, resources: ResourcesDep
) -> Page[ProjectView]:
    """List the projects that the caller administers: all of them for admins of the default project."""
    rows = projects.page(resources.database, actor, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, _project, lambda row: row.id)


@router.get("/projects/{project_id}")
def get_project(project_id: str, actor: ActorDep, resources: ResourcesDep) -> ProjectView:
    """Show a project."""
    return _project(projects.get(resources.database, actor, project_id))


@router.patch("/projects/{project_id}")
def change_project(project_id: str, body: ProjectChange, actor: ActorDep, resources: ResourcesDep) -> ProjectView:
    """Rename a project, or change its quotas; keys learn of it within five seconds."""
    return _project(projects.change(resources.database, actor, project_id, body))


@router.delete("/projects/{project_id}", status_code=204)
def delete_project(project_id: str, actor: ActorDep, resources: ResourcesDep) -> None:
    """Remove a project whose jobs are over, with all that it owns: keys, results, uploads, hooks, rules, webhooks."""
    projects.delete(resources, actor, project_id)


@router.get("/usage")
def get_usage(resources: ResourcesDep, project: ProjectDep) -> UsageView:
    """Show what the caller's project holds and uses."""
    return UsageView.model_validate(projects.usage(resources.database, project))
