"""Every refusal in one shape: application/problem+json (RFC 9457), with pointers into the request."""

from __future__ import annotations

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

from app.errors import AppError, InvalidRequest, NotFound, NotReady
from espalier.errors import Problem
from espalier.recipe.refusals import pointers
from espalier.recipe.refusals.mistakes import describe

MAX_ITEMS = 100

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
        items = [Problem(pointers.into(body, item.pointer), item.code, item.detail) for item in error.items]
        return problem_response(request.scope, _with_items(error, items))

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        body, model = getattr(request.state, "json", None), _model(request)
        items = [_item(detail, body, model) for detail in error.errors()[:MAX_ITEMS]]
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
    refusal.code, refusal.status = phrase, error.status_code
    return refusal


def _model(request: Request) -> type[BaseModel] | None:
    """Return what the body of a request is read as, in the end: `state.model` where an endpoint completes it first."""
    if hasattr(request.state, "model"):
        model: type[BaseModel] = request.state.model
        return model
    field = getattr(request.scope.get("route"), "body_field", None)
    kind = field.field_info.annotation if field is not None else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _item(detail: Mapping[str, Any], body: object, model: type[BaseModel] | None) -> Problem:
    kind = str(detail["type"])
    where, *parts = detail["loc"]
    pointer = pointers.of_error(detail, parts, body) if where == "body" else pointers.join([where, *parts])
    return Problem(pointer, kind.replace("_", "-"), describe({**detail, "loc": parts}, model))
