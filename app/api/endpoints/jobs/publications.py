"""Publications of a job's result."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi import Query as FromQuery

from app.api.deps import JobId, KeyDep, PagerDep, again, replayed
from app.api.paging import Page, PageQuery
from app.api.views import View
from app.dependencies import ProjectDep, ResourcesDep
from app.services import publications
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
    job_id: JobId, body: PublishTarget, response: Response, resources: ResourcesDep, project: ProjectDep, key: KeyDep
) -> PublicationView:
    """Publish a result; one whose gate was rejected never is."""
    row = replayed(
        response,
        lambda: publications.create(resources.database, project, job_id, body, key=key),
        lambda made: publications.again(resources.database, made),
    )
    return PublicationView.model_validate(row)


@router.get("")
def list_publications(
    job_id: JobId,
    query: Annotated[PageQuery, FromQuery()],
    pager: PagerDep,
    resources: ResourcesDep,
    project: ProjectDep,
) -> Page[PublicationView]:
    """List the publications of a job, newest first."""
    before = pager.position(query)
    rows = publications.page(resources.database, project, job_id, before=before, limit=query.limit + 1)
    return pager.page(query, rows, PublicationView.model_validate, lambda row: row.id)
