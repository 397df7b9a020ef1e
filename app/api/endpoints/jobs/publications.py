"""Publications of a job's result."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Query as FromQuery

from app.api.deps import IdempotencyKeyHeader, JobId, PagerDep, SentDep, again
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.dependencies import ProjectDep, ResourcesDep
from app.services import publications
from app.services.idempotency import Key
from espalier.recipe.steps.publish import PublishTarget

router = APIRouter(prefix="/v1/jobs/{job_id}/publications", tags=["jobs"])


class PublicationView(View):
    """One result for one target."""

    id: str
    job_id: str
    target: dict[str, Any]
    state: Literal["pending", "succeeded", "failed"]
    attempts: int
    reference: str | None
    """The commit, or the address of the manifest."""
    error: dict[str, Any] | None
    """Of the last attempt that failed."""
    created_at: datetime
    finished_at: datetime | None


@router.post("", status_code=202, responses=again(PublicationView))
def create_publication(
    job_id: JobId, body: PublishTarget, sent: SentDep, response: Response, resources: ResourcesDep, project: ProjectDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> PublicationView:  # fmt: skip
    """Publish a result; one whose gate was rejected never is."""
    path = f"/v1/jobs/{job_id}/publications"
    key = Key.of(project, "POST", path, key=idempotency_key, body=sent) if idempotency_key else None
    row, replayed = publications.create(resources.database, project, job_id, body, key)
    if replayed:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
    return PublicationView.model_validate(row)


@router.get("")
def list_publications(
    job_id: JobId, query: Annotated[PageQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep,
    project: ProjectDep,
) -> Page[PublicationView]:  # fmt: skip
    """List the publications of a job, newest first."""
    before = pager.position(query)
    rows = publications.page(resources.database, project, job_id, before=before, limit=query.limit + 1)
    return pager.page(query, rows, PublicationView.model_validate, lambda row: row.id)
