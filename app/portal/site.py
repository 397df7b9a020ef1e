"""The portal as an application of its own, mounted at /portal beside the API."""

from __future__ import annotations

from os import PathLike, stat_result
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.portal import navigation, pages, problems
from app.portal.guard import PortalGuard
from app.portal.rendering import STATIC, environment
from app.services.tenancy.oidc import Provider
from app.settings import Settings
from espalier.version import VERSION

FRONT = "/portal/jobs"
"""The first page."""
_INDEX: Final = {
    "service": "espalier",
    "version": VERSION,
    "documentation": "/openapi.json",
    "health": "/healthz",
    "portal": "/portal",
}
"""The answer at the root to clients that are no browser."""


class _Static(StaticFiles):
    """Files whose address names their bytes are kept for ever."""

    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        kept = b"v=" in scope["query_string"]
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
        return answer


def mount(app: FastAPI, settings: Settings) -> None:
    """Add the portal to an application, and lead browsers to it."""
    routers, menu = navigation.discover(pages)
    site = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    site.state = app.state  # database and event streams, which the lifespan of the whole application opens
    app.state.menu, app.state.templates, app.state.portal_settings = menu, environment(), settings
    app.state.identity_provider = Provider(settings) if settings.oidc_issuer else None
    for router in routers:
        site.include_router(router)
    site.mount("/static", _Static(directory=STATIC))
    problems.install(site)
    site.add_middleware(PortalGuard, settings=settings)
    app.include_router(_doors())
    app.mount("/portal", site)


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _doors() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def front(request: Request) -> Response:
        answer = RedirectResponse(FRONT, 303) if _is_browser(request) else JSONResponse(_INDEX)
        answer.headers["Vary"] = "Accept"
        return answer

    @router.get("/portal")
    @router.get("/portal/")
    async def portal() -> Response:
        return RedirectResponse(FRONT, 303)

    return router
