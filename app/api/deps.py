"""Dependencies of endpoints alone, as aliases; app.dependencies has those that pages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Path, Request, Response
from pydantic import BaseModel

from app.api.paging import Pager
from app.dependencies import ProjectDep, ResourcesDep
from app.services.idempotency import AlreadyMade, Key


async def _sent(request: Request) -> Any:  # noqa: ANN401 - JSON
    return request.state.json


SentDep = Annotated[Any, Depends(_sent)]
"""The body as it came, no defaults filled in."""


async def _pager(request: Request, response: Response, resources: ResourcesDep) -> Pager:
    return Pager(request, response, resources.settings)


PagerDep = Annotated[Pager, Depends(_pager)]


JobId = Annotated[str, Path(description="`job_` and a ULID.")]
ArtifactId = Annotated[str, Path(description="`art_` and a ULID.")]
IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any unique word; for a day, a call with the same key and body makes no second job.",
    ),
]


T = TypeVar("T")


async def _key(
    request: Request, project: ProjectDep, sent: SentDep, idempotency_key: IdempotencyKeyHeader = None
) -> Key | None:
    path = request.url.path
    return Key.of(project, request.method, path, key=idempotency_key, body=sent) if idempotency_key else None


KeyDep = Annotated[Key | None, Depends(_key)]
"""The call's Idempotency-Key, bound to its path and body."""


def again(view: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Describe the answer to a call whose Idempotency-Key was here before, for the OpenAPI document."""
    return {200: {"model": view, "description": "An equal call was here before: what it made, as it is now."}}


def replayed(response: Response, make: Callable[[], T], show: Callable[[str], T]) -> T:
    """Make a resource, or show the one that an equal call with the same key made."""
    try:
        return make()
    except AlreadyMade as earlier:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
        return show(earlier.resource_id)
