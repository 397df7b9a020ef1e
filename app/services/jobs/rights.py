"""Rights that a request takes, from API, portal and hooks alike: to queue a job, and to publish its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.bodies.access import Scope
from app.errors import Forbidden
from app.platform import actor as actors
from app.platform.actor import Actor
from espalier.errors import Problem

PLACE: Final = "/spec/output/publish"


def has(actor: Actor, scope: Scope) -> bool:
    """Tell whether somebody has a scope; an admin has all."""
    return not actor.scopes.isdisjoint({scope, "admin"})


def held() -> list[str]:
    """Return the scopes of the actor."""
    return sorted((actors.current() or actors.LOCAL).scopes)


def require(scope: Scope, *, items: Sequence[Problem] = ()) -> None:
    """Raise Forbidden where who acts lacks a scope; workers act for the service, and lack none."""
    actor = actors.current()
    if actor is None or has(actor, scope):
        return
    if actor.type == "hook":
        raise Forbidden(f"Who saved this rule last has no key with the scope {scope}: save it with one.", items=items)
    raise Forbidden(f"This takes an API key with the scope {scope}.", items=items)


def require_to_submit(targets: Sequence[object], *, at: str = PLACE) -> None:
    """Raise Forbidden where who acts may not queue a job that publishes to targets: that is a right of its own."""
    require("jobs:write")
    require_to_publish(targets, at=at)


def require_to_publish(targets: Sequence[object], *, at: str = PLACE) -> None:
    """Raise Forbidden where there are targets and who acts may not publish; `at`: where they are named."""
    if targets:
        require("models:write", items=[Problem(at, "takes-a-scope", "to publish takes the scope models:write")])


def targets_in(spec: Mapping[str, Any]) -> Sequence[object]:
    """Return where a spec as sent, whole or a part of one, says that its result goes."""
    output = spec.get("output")
    return (output.get("publish") or ()) if isinstance(output, Mapping) else ()
