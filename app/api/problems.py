"""Every refusal in one shape: application/problem+json (RFC 9457), with pointers into the request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import Scope

from app.errors import AppError, InvalidRequest, NotFound, NotReady, Problem

MAX_ITEMS = 100
_ECHO = {"union_tag_invalid", "union_tag_not_found"}
"""Kinds of pydantic errors whose text would repeat what the client sent."""

_MISSING = {"missing", "missing_sparsity", "union_tag_not_found"}
"""Kinds of errors whose pointer leads to what is not there."""

log = structlog.get_logger(__name__)


class ProblemItem(BaseModel):
    """One thing that is wrong."""

    pointer: str
    code: str
    detail: str


class ProblemView(BaseModel):
    """A refusal. Pointers lead into the body; those of parameters begin with /query, /path or /header."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[ProblemItem]


def problem_response(scope: Scope, error: AppError) -> JSONResponse:
    """Turn a refusal into its answer."""
    view = ProblemView(
        type=f"urn:espalier:problem:{error.code}",
        title=error.code.replace("-", " ").capitalize(),
        status=error.status,
        detail=error.detail,
        instance=quote(scope.get("path", "/"), safe="/"),
        code=error.code,
        request_id=str(scope.get("state", {}).get("request_id", "")),
        errors=[ProblemItem(pointer=i.pointer, code=i.code, detail=i.detail) for i in error.items[:MAX_ITEMS]],
    )
    headers = {**error.headers, "Cache-Control": "no-store"}
    return JSONResponse(view.model_dump(), error.status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every exception that the service knows; middleware answers the rest."""

    @app.exception_handler(AppError)
    def _app_error(request: Request, error: AppError) -> JSONResponse:
        body = getattr(request.state, "json", None)
        items = [Problem(pointer_into(body, item.pointer), item.code, item.detail) for item in error.items]
        return problem_response(request.scope, _with_items(error, items))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        items = [_item(detail, getattr(request.state, "json", None)) for detail in error.errors()]
        refusal = InvalidRequest("The request does not follow its schema; `errors` tells where.", items=items)
        return problem_response(request.scope, refusal)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        refusal = _of_status(error)
        if (
            refusal.status == HTTPStatus.METHOD_NOT_ALLOWED
        ):  # the router names the methods of one route of the path only
            refusal.headers["Allow"] = ", ".join(_methods(request))
        return problem_response(request.scope, refusal)

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def _database(request: Request, error: DBAPIError) -> JSONResponse:
        log.warning("database out of reach", error=type(error).__name__)
        refusal = NotReady("The database does not answer.", headers={"Retry-After": "2"})
        return problem_response(request.scope, refusal)


def _methods(request: Request) -> list[str]:
    """Return what the path of a request can be asked with."""

    def takes(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] == Match.FULL for route in request.app.routes)

    return [method for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT") if takes(method)]


def _with_items(error: AppError, items: Sequence[Problem]) -> AppError:
    error.items = tuple(items)
    return error


def _of_status(error: HTTPException) -> AppError:
    """Name a refusal of the router itself."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("There is no such path.")
    refusal = AppError(
        f"{HTTPStatus(error.status_code).description or error.detail}.", headers=dict(error.headers or {})
    )
    phrase = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    refusal.code, refusal.status = phrase, error.status_code  # type: ignore[misc]
    return refusal


def _item(detail: Mapping[str, Any], body: object) -> Problem:
    kind = str(detail["type"])
    where, *parts = detail["loc"]
    text = str(detail["msg"])
    if kind in _ECHO:
        # pydantic points at the union; the mistake is its tag.
        parts.append(str(detail["ctx"]["discriminator"]).strip("'"))
        text = f"Expected one of {detail['ctx']['expected_tags']}" if "expected_tags" in detail["ctx"] else "Required"
    if at := detail.get("ctx", {}).get("at"):  # a rule over several fields says which of them is at fault
        parts.extend(at.split("/"))
    pointer = _join(_existing(body, parts, keep_last=kind in _MISSING)) if where == "body" else _join([where, *parts])
    return Problem(pointer, kind.replace("_", "-"), text)


def pointer_into(body: object, pointer: str) -> str:
    """Drop from a pointer what the body as sent does not have: `prune` may be one object or a list of them."""
    if not pointer or body is None:
        return pointer
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return _join(_existing(body, parts, keep_last=False)) or pointer


def _existing(body: object, parts: Sequence[str | int], *, keep_last: bool) -> list[str | int]:
    """Follow a location into a document and drop the steps that are not in it: union tags, inserted indices."""
    found: list[str | int] = []
    for index, part in enumerate(parts):
        if isinstance(body, dict) and part in body:
            body = body[part]
            found.append(part)
        elif isinstance(body, list) and re.fullmatch(r"\d{1,6}", str(part)) and int(part) < len(body):
            body = body[int(part)]
            found.append(part)
        elif keep_last and index == len(parts) - 1:
            found.append(part)
    return found


def _join(parts: Sequence[str | int]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
