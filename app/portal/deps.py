"""Dependencies of pages alone; app.dependencies has those that endpoints share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency

from app.bodies.access import Scope
from app.dependencies import ActorDep
from app.errors import Forbidden
from app.portal.forms import Form
from app.services.jobs import rights


async def _form(request: Request) -> Form:
    form: Form = request.state.form
    return form


FormDep = Annotated[Form, Depends(_form)]
"""The posted form; its CSRF token has been checked."""


SCOPE_OF: Final[dict[Callable[..., object], Scope]] = {}
"""Each dependency that asks for a scope, and which one."""


def needs(scope: Scope) -> Dependency:
    """Require a scope of the actor of a route; raises Forbidden."""

    async def check(actor: ActorDep) -> None:
        if not rights.has(actor, scope):
            raise Forbidden(f"This page needs an API key with the scope `{scope}`.")

    SCOPE_OF[check] = scope
    dependency: Dependency = Depends(check)
    return dependency
