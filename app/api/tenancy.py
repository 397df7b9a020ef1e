"""Tenants: projects, API keys, credentials, usage, and the audit log."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi import Query as FromQuery

from app.api.deps import KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.bodies.access import (
    KeyChange,
    KeyRequest,
    ProjectChange,
    ProjectRequest,
    Quotas,
)
from app.db.queries import tenancy
from app.db.tenancy import ApiKey, Project
from app.dependencies import ActorDep, ProjectDep, ResourcesDep
from app.integrations.shared.logins import Login
from app.integrations.systems import LOGINS
from app.services.tenancy import credentials, keys, projects

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


class KeyView(View):
    """An API key, without its secret."""

    id: str
    project_id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    revoked_at: datetime | None


class NewKeyView(KeyView):
    """An API key that was just made."""

    key: str | None
    """Send it as `Authorization: Bearer <key>`. It is shown in the answer to this call alone."""


class UsageView(View):
    """What a project holds now, and used in this calendar month (UTC)."""

    project_id: str
    month: str
    queued_jobs: int
    running_jobs: int
    stored_bytes: int
    gpu_seconds: float
    cpu_seconds: float
    attempts: int
    quotas: Quotas


class AuditView(View):
    """Something that somebody did."""

    id: str
    time: datetime
    project_id: str
    actor: dict[str, Any]
    action: str
    resource_id: str
    request_id: str | None
    data: dict[str, Any]


class CredentialView(View):
    """A secret of another service, of which only the end is shown."""

    kind: str
    hint: str
    updated_at: datetime


def _project(row: Project) -> ProjectView:
    return ProjectView(
        id=row.id, name=row.name, quotas=Quotas(**row.quotas), shared_logins=row.shared_logins,
        allow_high_priority=row.allow_high_priority, created_at=row.created_at,
    )  # fmt: skip


def _key(row: ApiKey) -> KeyView:
    return KeyView.model_validate(row)


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
    with resources.database.reading() as session:
        rows = tenancy.projects(session, keys.scope(actor), before=pager.position(query), limit=query.limit + 1)
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


@router.post("/api-keys", status_code=201, responses=again(NewKeyView))
def create_key(
    body: KeyRequest, response: Response, actor: ActorDep, resources: ResourcesDep, key: KeyDep
) -> NewKeyView:
    """Make an API key; the answer alone holds it."""
    project_id = keys.project_of_new_key(actor, body.project_id)
    database, settings = resources.database, resources.settings
    row, token = replayed(
        response,
        lambda: keys.create(database, settings, body, project_id, key=key),
        lambda made: keys.again(database, settings, actor, made, key),
    )
    response.headers["Location"] = f"/v1/api-keys/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView(**_key(row).model_dump(), key=token)


@router.get("/api-keys")
def list_keys(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, actor: ActorDep, resources: ResourcesDep
) -> Page[KeyView]:
    """List API keys, newest first."""
    with resources.database.reading() as session:
        rows = tenancy.keys(session, keys.scope(actor), before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, _key, lambda row: row.id)


@router.get("/api-keys/{key_id}")
def get_key(key_id: str, actor: ActorDep, resources: ResourcesDep) -> KeyView:
    """Show an API key."""
    return _key(keys.get(resources.database, actor, key_id))


@router.patch("/api-keys/{key_id}")
def change_key(key_id: str, body: KeyChange, actor: ActorDep, resources: ResourcesDep) -> KeyView:
    """Rename an API key, or let it end at another time."""
    return _key(keys.change(resources.database, actor, key_id, body))


@router.delete("/api-keys/{key_id}", status_code=204)
def revoke_key(key_id: str, actor: ActorDep, resources: ResourcesDep) -> None:
    """Revoke an API key: within five seconds it opens nothing."""
    keys.revoke(resources.database, actor, key_id)


@router.get("/usage")
def get_usage(resources: ResourcesDep, project: ProjectDep) -> UsageView:
    """Show what the caller's project holds and uses."""
    return UsageView.model_validate(projects.usage(resources.database, project))


@router.get("/audit-events")
def list_audit_events(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[AuditView]:
    """List who did what in the caller's project, newest first."""
    with resources.database.reading() as session:
        rows = tenancy.audit_page(session, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, AuditView.model_validate, lambda row: row.id)


@router.get("/credentials")
def list_credentials(resources: ResourcesDep, project: ProjectDep) -> Page[CredentialView]:
    """List the kinds of credentials that the project has."""
    rows = credentials.every(resources.database, project)
    return Page(items=[CredentialView.model_validate(row) for row in rows], next_cursor=None)


def _store(kind: str, login: type[Login]) -> None:
    """Add the endpoint that stores a project's login at one system."""

    def put(body: Login, resources: ResourcesDep, project: ProjectDep) -> CredentialView:
        row = credentials.put(resources.database, resources.settings, project, kind, body, hint=body.hint())
        return CredentialView.model_validate(row)

    put.__annotations__["body"] = login
    put.__name__ = "put_" + re.sub(r"(?<!^)(?=[A-Z])", "_", login.__name__).lower()
    router.put(f"/credentials/{kind}", description=login.about)(put)


for _kind, _login in LOGINS.items():
    _store(_kind, _login)


@router.delete("/credentials/{kind}", status_code=204)
def delete_credential(kind: str, resources: ResourcesDep, project: ProjectDep) -> None:
    """Forget a credential."""
    credentials.delete(resources.database, project, kind)
