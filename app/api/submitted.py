"""The answer to a call that makes a job."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api.views import job_view
from app.services.jobs import reads
from app.services.jobs.reads import JobReading
from app.services.jobs.submit import Submitted
from app.services.resources import Resources


async def created(resources: Resources, project: str, submitted: Submitted) -> Response:
    """Show a new job as it was written; an earlier one is read."""
    if submitted.reading is not None:
        return _response(submitted, submitted.reading)
    return await run_in_threadpool(answer, resources, project, submitted)


def answer(resources: Resources, project: str, submitted: Submitted) -> Response:
    """Show a new job as `created` does, from a thread that may wait for the database."""
    reading = submitted.reading or reads.job(resources.database, project, submitted.job_id)
    return _response(submitted, reading)


def _response(submitted: Submitted, reading: JobReading) -> Response:
    headers = {"Location": f"/v1/jobs/{submitted.job_id}"}
    if submitted.replayed:
        headers["Idempotency-Replayed"] = "true"
    status = 200 if submitted.replayed else 201 if submitted.reused else 202
    return Response(job_view(reading).model_dump_json(by_alias=True), status, headers, media_type="application/json")
