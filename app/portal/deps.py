"""What pages ask for, as aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from app.actor import Actor
from app.errors import Forbidden
from app.portal.forms import Form
from app.services import presets
from app.services.feed import Feed
from app.services.resources import Resources
from app.specs.access import Scope
from app.specs.presets import LOOKUP


async def _resources(request: Request) -> Resources:
    found: Resources = request.app.state.resources
    return found


ResourcesDep = Annotated[Resources, Depends(_resources)]


async def _actor(request: Request) -> Actor:
    found: Actor = request.state.actor
    return found


ActorDep = Annotated[Actor, Depends(_actor)]
"""Who has signed in, as app.portal.guard found out."""


async def _project(request: Request) -> str:
    found: str = request.state.actor.project_id
    return found


ProjectDep = Annotated[str, Depends(_project)]


async def _feed(request: Request) -> Feed:
    found: Feed = request.app.state.feed
    return found


FeedDep = Annotated[Feed, Depends(_feed)]


async def _form(request: Request) -> Form:
    found: Form = request.state.form
    return found


FormDep = Annotated[Form, Depends(_form)]
"""The posted form; its CSRF token has been checked."""


async def _presets(project: ProjectDep, resources: ResourcesDep) -> None:
    LOOKUP.set(presets.lookup(resources.database, project))


PresetsDep = Depends(_presets)
"""Lets what is read next name the project's own presets."""


def needs(scope: Scope) -> Dependency:
    """Let a route be opened only by those who have a scope; raises Forbidden."""

    async def check(actor: ActorDep) -> None:
        if not {scope, "admin"} & actor.scopes:
            raise Forbidden(f"This takes an API key with the scope {scope}.")

    found: Dependency = Depends(check)
    return found
