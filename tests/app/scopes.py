"""Which scope opens which route, found from the applications themselves, and the page that says so.

`python -m tests.app.scopes` writes docs/scopes.md anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.params import Depends
from starlette.routing import Mount, Route

from app.api.access import rule_of, takes_no_key
from app.bodies.access import SCOPES
from app.main import create_app
from app.portal.deps import SCOPE_OF
from app.portal.guard import OPEN
from app.settings import Settings
from tests.app.api.entry_points import ENTRY_POINTS

PAGE: Final = Path(__file__).parents[2] / "docs/scopes.md"
NOBODY: Final = "no key"
ANYBODY: Final = "any key"
ALSO: Final = {("POST", "/v1/jobs/{job_id}/clone"): ("jobs:read",)}
"""What a route asks for beside its rule, whatever comes in."""
HEAD: Final = """\
# Scopes

What an API key needs for each call, and a sign-in for each page; `admin` opens all of it. Made from the routes
themselves by `python -m tests.app.scopes`, and tried with keys of each scope in `tests/app/test_scopes.py`.
"""
SIDE: Final = """
## What takes more than its route

To queue a job and to publish its result are two rights, whichever endpoint they are asked through.

| call | scopes, all of them |
|---|---|
"""
OPERATORS: Final = """
Beyond these, projects, the keys of other projects, the names of machines, and draining a worker are for operators:
keys with `admin` of the default project. An action on a job or a sweep answers with what was asked for, and what came
out of it, to those only who have `jobs:read`; others are told where it stands.
"""


@dataclass(frozen=True)
class Opening:
    """One verb of one path, and what opens it."""

    verb: str
    path: str
    scopes: tuple[str, ...]
    """All of them; none where any key will do."""

    @property
    def takes(self) -> str:
        """The scopes in words."""
        return " and ".join(self.scopes) or ANYBODY


def api(app: FastAPI) -> Iterator[Opening]:
    """Yield the routes of the API; raises KeyError for one that no rule is about."""
    for route in _flat(app):
        for verb in () if route.path.startswith("/portal") or route.path == "/" else sorted(route.methods):
            yield Opening(verb, route.path, (NOBODY,) if takes_no_key(route.path) else _named(verb, route.path))


def _flat(app: FastAPI) -> Iterator[Any]:
    """Every route as it is served: with the dependencies of the routers that it came with."""
    for route in app.routes:
        if hasattr(route, "effective_route_contexts"):
            yield from route.effective_route_contexts()
        elif isinstance(route, Route):
            yield route


def _named(verb: str, path: str) -> tuple[str, ...]:
    rule = rule_of(path)
    if rule is None:
        raise KeyError(f"{verb} {path} is new: say in app.api.access what it takes")
    reading, writing = rule
    scope = reading if verb in {"GET", "HEAD"} else writing
    return (*ALSO.get((verb, path), ()), scope) if scope else ()


def portal(app: FastAPI) -> Iterator[Opening]:
    """Yield the pages of the portal; raises KeyError for one that asks for no scope and is not open to everybody."""
    site = next(route.app for route in app.routes if isinstance(route, Mount) and route.path == "/portal")
    assert isinstance(site, FastAPI)
    for route in _flat(site):
        asked = [each.dependency for each in route.dependencies if isinstance(each, Depends)]
        scopes = [SCOPE_OF[each] for each in asked if each in SCOPE_OF]
        path = f"/portal{route.path}"
        if not scopes and not path.startswith((OPEN, "/portal/sign-out", "/portal/methods")):
            raise KeyError(f"{path} is new: say with `needs` what it takes")
        for verb in sorted(route.methods):
            yield Opening(verb, path, (NOBODY,) if path.startswith(OPEN) else tuple(dict.fromkeys(scopes)))


def page(app: FastAPI) -> str:
    """Return docs/scopes.md."""
    lines = [HEAD]
    for title, routes in (("The API", list(api(app))), ("The portal", list(portal(app)))):
        lines.append(f"## {title}\n")
        lines += ["| scopes | routes |", "|---|---|"]
        for takes in sorted({route.takes for route in routes}, key=_order):
            names = sorted(f"`{route.verb} {route.path}`" for route in routes if route.takes == takes)
            lines.append(f"| {takes} | {', '.join(names)} |")
        lines.append("")
    text = "\n".join(lines) + SIDE
    for entry_point in ENTRY_POINTS:
        text += f"| {entry_point.what} | {', '.join(f'`{scope}`' for scope in sorted(entry_point.takes))} |\n"
    return text + OPERATORS


def _order(takes: str) -> list[int]:
    known = (NOBODY, ANYBODY, *SCOPES)
    return [known.index(scope) for scope in takes.split(" and ")]


if __name__ == "__main__":
    PAGE.write_text(page(create_app(Settings())), encoding="utf-8")
