"""The web service: `uvicorn --factory app.main:create_app`."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from typing import Any

from fastapi import APIRouter, FastAPI

from app.api import endpoints, problems
from app.api.access import AccessGuard, takes_no_key
from app.api.guard import BodyGuard, RequestContext
from app.api.metering import DatabaseCollector, RequestMeter
from app.api.metrics_registry import MetricsRegistry, of_this_process
from app.bodies.schema import require_tags, tell_object_defaults
from app.db.commits import GroupCommit
from app.db.session import Database
from app.platform.discovery import offered
from app.platform.fairness import KeyedLimiter
from app.platform.logs import setup_logs
from app.platform.tracing import setup_traces
from app.portal import site
from app.production import refuse_unsafe_production
from app.queue import WorkNotifier, make_celery
from app.services.events.event_streams import EventStreams, ending_streams
from app.services.readiness import Readiness
from app.services.resources import Resources
from app.settings import Settings, get_settings
from app.storage.open import open_store
from espalier.version import VERSION

SWITCH_SECONDS = 0.001
"""Switch interval of a thread that computes: at worst, forty of them run before the event loop."""
AT_ONCE = 4
"""Requests of a project that may hold one of a process's forty threads: with more it is served no faster, and others
wait for the interpreter."""
_PROBLEM = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; it opens its database, store and broker when it starts.

    Without settings it starts a process of its own, and configures logging from the environment.
    """
    _spare_what_is_loaded()
    alone = settings is None
    if settings is None:
        settings = get_settings()
        setup_logs(settings)
        setup_traces(settings, "espalier-api")
        _die_with_parent()
    refuse_unsafe_production(settings)
    registry = of_this_process() if alone else MetricsRegistry()

    app = FastAPI(
        title="Espalier",
        version=VERSION,
        summary="Compression as a service for transformer models.",
        lifespan=partial(_lifespan, settings=settings, registry=registry, alone=alone),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={"4XX": {"description": "A refusal.", **_PROBLEM}, "5XX": {"description": "A failure.", **_PROBLEM}},
    )
    routers = [router for _, router in offered(endpoints, "router", APIRouter)]
    for router in routers:
        app.include_router(router)
    app.state.shares = KeyedLimiter(AT_ONCE)
    site.mount(app, settings)
    problems.install(app)
    app.state.registry = registry.exposed
    app.add_middleware(
        BodyGuard, routes=[route for router in routers for route in router.routes], shares=app.state.shares
    )
    app.add_middleware(AccessGuard, settings=settings)  # before a body is read
    app.add_middleware(RequestMeter, registry=registry)
    app.add_middleware(RequestContext)  # added last: outermost
    _describe_problems(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, *, settings: Settings, registry: MetricsRegistry, alone: bool) -> AsyncIterator[None]:
    database, notifier = (
        Database(settings.database, statement_seconds=settings.database_statement_seconds),
        WorkNotifier(make_celery(settings)),
    )
    commits = GroupCommit(database)
    app.state.resources = Resources(settings, database, open_store(settings), notifier, commits)
    collector = DatabaseCollector(database, registry, [each.name for each in settings.classes])
    registry.exposed.register(collector)
    app.state.event_streams = EventStreams(database, most_per_project=settings.api_max_connections // 4)
    app.state.readiness = Readiness(app.state.resources)
    if alone:
        app.openapi()  # cached: it takes half a second to build, and needs no key
        _spare_the_collector()
        sys.setswitchinterval(SWITCH_SECONDS)
    with ending_streams(app.state.event_streams):
        yield
    await app.state.event_streams.finish()
    app.state.readiness.close()
    registry.exposed.unregister(collector)
    commits.close()
    notifier.close()
    database.dispose()


@lru_cache
def _spare_what_is_loaded() -> None:
    """Keep modules and classes, which live as long as the process, out of every later collection: it stops all threads.

    Once, before an application is there: what a process of tests makes later is to be collected.
    """
    gc.freeze()


def _spare_the_collector() -> None:
    """Keep what lives as long as the process out of every later collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 10)


def _die_with_parent() -> None:
    """Bind one of several server processes to the one that started them: killed hard, it would leave them listening."""
    if multiprocessing.parent_process() is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _describe_problems(app: FastAPI) -> None:
    """Put the shape of a problem into the OpenAPI document, to which every refusal refers."""
    plain = app.openapi

    @lru_cache
    def openapi() -> dict[str, Any]:
        document = plain()
        schema = problems.ProblemView.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(schema.pop("$defs", {}), Problem=schema)
        _drop_odd_discriminators(document)
        tell_object_defaults(document)
        _describe_keys(document)
        return require_tags(document)

    app.openapi = openapi  # type: ignore[method-assign]


def _describe_keys(document: dict[str, Any]) -> None:
    """Describe in the document where the API key goes, and which paths take none."""
    text = "`esp_<id>_<secret>`; the embedded mode takes calls without one from its own machine."
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": text}}
    document["security"] = [{"key": []}, {}]
    for path, verbs in document["paths"].items():
        for operation in verbs.values() if takes_no_key(path) else ():
            operation["security"] = []


def _drop_odd_discriminators(value: Any) -> None:  # noqa: ANN401 - JSON
    """Remove discriminators that name a schema in full: OpenAPI takes references only, and they only speed up."""
    if isinstance(value, list):
        for item in value:
            _drop_odd_discriminators(item)
    elif isinstance(value, dict):
        mapping = (
            value.get("discriminator", {}).get("mapping") if isinstance(value.get("discriminator"), dict) else None
        )
        if mapping and not all(isinstance(target, str) for target in mapping.values()):
            del value["discriminator"]
        for item in value.values():
            _drop_odd_discriminators(item)
