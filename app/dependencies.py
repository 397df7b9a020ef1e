"""What endpoints and pages alike ask for, as aliases."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from app.platform.actor import Actor
from app.services import presets
from app.services.events.event_streams import EventStreams
from app.services.resources import Resources
from espalier.recipe.presets import LOOKUP, find


async def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(_resources)]


async def _actor(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


ActorDep = Annotated[Actor, Depends(_actor)]
"""Who calls or has signed in, as app.api.access or app.portal.guard found out."""


async def _project(request: Request) -> str:
    project_id: str = request.state.actor.project_id
    return project_id


ProjectDep = Annotated[str, Depends(_project)]


async def _event_streams(request: Request) -> EventStreams:
    streams: EventStreams = request.app.state.event_streams
    return streams


EventStreamsDep = Annotated[EventStreams, Depends(_event_streams)]


async def _presets(request: Request, project: ProjectDep, resources: ResourcesDep) -> None:
    LOOKUP.set(lru_cache(presets.lookup(resources.database, project)))
    # A job's body is validated in the event loop, which must not wait for the database: what it names is read before.
    body = request.state.json
    spec = body.get("spec") if isinstance(body, dict) else None
    name = spec.get("preset") if isinstance(spec, dict) else None
    if isinstance(name, str):
        await run_in_threadpool(find, name)


PresetsDep = Depends(_presets)
"""Lets the body that is read next name the project's own presets."""
