"""Jobs: create, list, show."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from fastapi import Query as FromQuery
from fastapi.openapi.models import Example
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from app.api.deps import IdempotencyKeyHeader, JobId, PagerDep, SentDep
from app.api.paging import Page, PageQuery
from app.api.submitted import created
from app.api.views import JobView, job_view
from app.bodies.job import JobRequest
from app.db.lifecycle import JobState
from app.db.queries.jobs.jobs import Filters
from app.dependencies import PresetsDep, ProjectDep, ResourcesDep
from app.services.idempotency import Key
from app.services.jobs import reads, submit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
_LABEL = re.compile(r"[A-Za-z0-9][\w./-]{0,62}=.{0,255}", re.DOTALL)


def _label(value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise PydanticCustomError("label", "a label filter is key=value")
    return value


def _rfc3339(value: object) -> object:
    """Refuse what pydantic would take for seconds since 1970."""
    if isinstance(value, str) and not _TIME.match(value):
        raise PydanticCustomError("datetime_parsing", "give a time of RFC 3339 with a zone: 2026-11-21T08:00:00Z")
    return value


# A year beyond these does not survive the conversion to UTC.
Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_rfc3339),
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]


class JobQuery(PageQuery):
    """Filters of the list of jobs; a cursor belongs to the filters that it was made with."""

    state: list[JobState] = Field([], max_length=9, description="Repeatable: any of these.")
    label: list[Annotated[str, Field(max_length=320), AfterValidator(_label)]] = Field(
        [], max_length=16, description="key=value, repeatable: all of these."
    )
    model: str | None = Field(None, max_length=300, description="Repository or name of the folder.")
    method: str | None = Field(None, max_length=100, description="Criterion.")
    created_after: Instant | None = Field(None, description="Inclusive.")
    created_before: Instant | None = Field(None, description="Exclusive.")

    def filters(self) -> Filters:
        """Return what the statement needs."""
        labels = [(key, value) for key, _, value in (label.partition("=") for label in self.label)]
        return Filters(self.state, labels, self.model, self.method, self.created_after, self.created_before)


_LOCATION = {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}}
_REPLAYED = {"Idempotency-Replayed": {"description": "`true`.", "schema": {"type": "string"}}}
EXAMPLES: dict[str, Example] = {
    "prune": {
        "summary": "Half of the weights, by their size and their inputs",
        "value": {
            "source": {"kind": "huggingface", "repo": "facebook/opt-125m"},
            "spec": {"prune": {"method": "wanda", "sparsity": 0.5}},
        },
    },
    "prune_and_recover": {
        "summary": "2:4, reconstructed and retrained, with a limit on what it may cost",
        "value": {
            "name": "llama 2:4 + perp",
            "source": {"kind": "huggingface", "repo": "org/model", "revision": "main"},
            "spec": {
                "calibration": {"samples": 128, "sequence_length": 2048, "seed": 0},
                "prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}},
                "reconstruct": {"window": "submodule"},
                "retrain": {"method": "perp", "trainable": ["norms", "mask_lora"], "steps": 1000},
                "gate": {"max_relative_perplexity_increase": 0.1},
            },
            "labels": {"team": "nlp"},
        },
    },
}


@router.post(
    "",
    status_code=202,
    dependencies=[PresetsDep],
    response_model=JobView,
    responses={
        200: {
            "model": JobView,
            "headers": _LOCATION | _REPLAYED,
            "description": "An equal call was here before: its job as it is now.",
        },
        201: {
            "model": JobView,
            "headers": _LOCATION,
            "description": "An equal job has done the work: this one has succeeded with its files.",
        },
        202: {"headers": _LOCATION, "description": "The job is queued."},
    },
)
async def create_job(
    body: Annotated[JobRequest, Body(openapi_examples=EXAMPLES)],
    sent: SentDep,
    request: Request,
    resources: ResourcesDep,
    project: ProjectDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> Response:
    """Queue a job."""
    path = request.url.path
    key = Key.of(project, "POST", path, key=idempotency_key, body=sent) if idempotency_key else None
    written = await run_in_threadpool(submit.submit, resources, project, body, sent, key)
    request.state.end_turn()  # what is left is waiting
    return await created(resources, project, await asyncio.wrap_future(written))


@router.get("")
def list_jobs(
    query: Annotated[JobQuery, FromQuery()], pager: PagerDep, resources: ResourcesDep, project: ProjectDep
) -> Page[JobView]:
    """List jobs, newest first."""
    before = pager.position(query)
    rows = reads.jobs(resources.database, project, query.filters(), before=before, limit=query.limit + 1)
    return pager.page(query, rows, job_view, lambda row: row.job.id)


@router.get("/{job_id}")
def get_job(job_id: JobId, resources: ResourcesDep, project: ProjectDep) -> JobView:
    """Show a job."""
    return job_view(reads.job(resources.database, project, job_id))
