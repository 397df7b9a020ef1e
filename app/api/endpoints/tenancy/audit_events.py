"""The audit log of a project."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as FromQuery

from app.api.deps import PagerDep
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.dependencies import ProjectDep, ResourcesDep
from app.services.tenancy import audit_log

router = APIRouter(prefix="/v1", tags=["tenancy"])


class AuditView(View):
    """An action of an actor."""

    id: str
    time: datetime
    project_id: str
    actor: dict[str, Any]
    action: str
    resource_id: str
    request_id: str | None
    data: dict[str, Any]


@router.get("/audit-events")
def list_audit_events(
    query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[AuditView]:
    """List actions in the caller's project with their actors, newest first."""
    rows = audit_log.page(resources.database, project, before=pager.position(query), limit=query.limit + 1)
    return pager.page(query, rows, AuditView.model_validate, lambda row: row.id)
