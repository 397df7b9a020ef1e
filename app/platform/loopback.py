"""Calls without a key: taken from this machine only, and not from another site's page in its browser."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers

from app.errors import Forbidden, Unauthenticated


def require_loopback(headers: Headers, host: str) -> None:
    """Raise Unauthenticated or Forbidden unless a call without a key may be taken; `host` is what we listen on."""
    if not _is_loopback(host):
        raise Unauthenticated("ESPALIER_HOST is not a loopback address, so every call takes an API key.")
    asked = headers.get("host", "")
    # A page whose name was made to resolve to 127.0.0.1 sends its own name here, and such names have dots.
    name = _hostname(asked)
    if "." in name and not _is_loopback(name):
        raise Forbidden("Without an API key the service is reached as localhost or 127.0.0.1.")
    if is_of_another_site(headers):
        raise Forbidden("Without an API key the service takes no calls of other sites' pages.")


def is_of_another_site(headers: Headers) -> bool:
    """Tell whether a browser says that another site's page makes this call."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host", "")


def _hostname(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
