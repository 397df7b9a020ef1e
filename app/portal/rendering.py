"""Templates: escaped by default, with one way to show numbers, sizes and times."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from app.portal.navigation import here

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
_KILO = 1024
NONE = "\N{EN DASH}"
"""Stands where there is no value."""


@lru_cache
def asset(name: str) -> str:
    """Return the address of a static file, which changes with its bytes and may so be kept for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/portal/static/{name}?v={digest}"


def number(value: float | None, digits: int = 2) -> str:
    """Show a number with thousands set apart; a dash where there is none."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def measured(value: float | None) -> str:
    """Show a measurement with its significant digits: 34.01, 3.5283, 0.000125."""
    if value is None:
        return NONE
    small = 0 < abs(value) < 0.01
    return f"{value:.3g}" if small else f"{value:,.{2 if abs(value) >= 10 else 4}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """Show a fraction in percent."""
    return NONE if value is None else f"{value * 100:.{digits}f} %"


def size(value: float | None) -> str:
    """Show bytes in the unit that fits."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < _KILO or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KILO
    raise AssertionError


def duration(seconds: float | None) -> str:
    """Show seconds as people say them: 4.2 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, below, small, smaller in (("min", 3600, "s", 60), ("h", 86_400, "min", 3600), ("d", 10**12, "h", 86_400)):
        if whole < 60:
            return f"{whole} s"
        if whole < below:
            parts = whole // smaller, whole % smaller // (smaller // {"s": 60, "min": 60, "h": 24}[small])
            return f"{parts[0]} {unit} {parts[1]} {small}" if parts[1] else f"{parts[0]} {unit}"
    raise AssertionError


def stamp(value: datetime | None) -> str:
    """Show a time in UTC, to the second."""
    return NONE if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def pretty(value: object) -> str:
    """Show JSON data as indented text."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def compact(value: object) -> str:
    """Show JSON data in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def word(value: str) -> str:
    """Show a name of the API as a word: `sparse_fw` is sparse fw."""
    return value.replace("_", " ")


def unquoted(text: str) -> str:
    """Show a line of documentation without its back-quotes."""
    return text.replace("`", "")


def base_url(request: Request) -> str:
    """Return the public address of the service: that of the settings, else that of the request."""
    configured: str = request.app.state.portal_settings.public_url
    return configured or str(request.base_url).rstrip("/").removesuffix("/portal")


def environment() -> Environment:
    """Return what renders every template of the portal."""
    templates = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    templates.filters |= {
        "number": number,
        "measured": measured,
        "percent": percent,
        "size": size,
        "duration": duration,
        "stamp": stamp,
        "pretty": pretty,
        "compact": compact,
        "unquoted": unquoted,
        "word": word,
    }
    templates.globals |= {"asset": asset}
    return templates


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:  # noqa: ANN401
    """Render a page or a fragment of one."""
    state = request.app.state
    actor = getattr(request.state, "actor", None)
    menu = [entry for entry in state.menu if actor is not None and entry.open_to(actor)]
    scopes = actor.scopes if actor is not None else frozenset()
    common = {
        "actor": actor,
        "may": lambda scope: bool({scope, "admin"} & scopes),
        "menu": menu,
        "here": here(menu, request.url.path),
        "csrf": getattr(request.state, "csrf", ""),
        "embedded": state.portal_settings.mode == "embedded",
        "request_id": getattr(request.state, "request_id", ""),
    }
    text = state.templates.get_template(template).render({**common, **context})
    return HTMLResponse(text, status)
