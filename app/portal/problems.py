"""Error pages, and error lines for requests of our own scripts."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.errors import AppError, InvalidRequest, NotFound, NotReady
from app.portal.rendering import render
from espalier.errors import Problem
from espalier.recipe.refusals import pointers

log = structlog.get_logger(__name__)


class PageFailed(AppError):
    """Something went wrong in the service; the request id finds it in the log."""

    code, status = "internal", 500


class WrongMethod(AppError):
    """This page cannot be asked in this way."""

    code, status = "method-not-allowed", 405


def problem_page(request: Request, error: AppError) -> Response:
    """Show a refusal; `HX-Request` gets the message alone."""
    template = "problem_line.html" if request.headers.get("hx-request") else "problem.html"
    title = error.code.replace("-", " ").capitalize()
    answer = render(request, template, status=error.status, error=error, title=title)
    answer.headers.update({name: value for name, value in error.headers.items() if name != "WWW-Authenticate"})
    return answer


def internal_error(request: Request) -> Response:
    """Show that a page failed, without the cause."""
    return problem_page(request, PageFailed())


def install(app: FastAPI) -> None:
    """Register handlers of the exceptions that pages raise on purpose."""

    @app.exception_handler(AppError)
    def _app_error(request: Request, error: AppError) -> Response:
        return problem_page(request, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        items = [Problem(pointers.join(item["loc"]), str(item["type"]), str(item["msg"])) for item in error.errors()]
        return problem_page(request, InvalidRequest("Invalid query parameter; `errors` names it.", items=items))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        return problem_page(request, NotFound("There is no such page.") if error.status_code == 404 else WrongMethod())

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def _database(request: Request, error: Exception) -> Response:
        log.warning("database out of reach", error=type(error).__name__)
        return problem_page(request, NotReady("The database does not answer.", headers={"Retry-After": "2"}))
