"""Rules for values of settings, and how a refused one is shown: mistakes are reported at the start, not by a job."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """Read a comma-separated list of networks; raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


_HOST: Final = r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?"
_HTTP: Final = "give an http or https address, like"
_ENDPOINT: Final = (rf"https?://([^\s/?#]*@)?{_HOST}(/[^\s?#]*)?", f"{_HTTP} https://mirror.example")
_WITHOUT_LOGIN: Final = (rf"https?://{_HOST}(/[^\s?#]*)?", f"{_HTTP} https://server.example/path, without a login")
_SERVED: Final = {
    "host": (r"[^\s/]+", "give a name or an address to listen on, like 0.0.0.0"),
    "database_url": (
        r"sqlite(\+pysqlite)?:///(?!:memory:)[^?]+(\?.*)?|(postgres|postgresql|postgresql\+psycopg)://.*",
        "give a SQLAlchemy URL: sqlite:////srv/espalier.db or postgresql://user@host/name",
    ),
    "broker_url": (
        r"filesystem://|(redis|rediss|redis\+socket)://.+",
        "give a Redis (redis://host:6379/0, rediss://...) or filesystem://",
    ),
    "store_url": (r"file:///.+|s3://[^\s/?#@]+(/[^\s?#]*)?", "give file:///folder or s3://bucket/prefix"),
    **dict.fromkeys(("s3_endpoint_url", "publish_s3_endpoint_url", "hf_endpoint", "otel_endpoint", "url"), _ENDPOINT),
    **dict.fromkeys(("mlflow_tracking_uri", "oidc_issuer"), _WITHOUT_LOGIN),
    "public_url": (rf"https?://{_HOST}", f"{_HTTP} https://espalier.example, without a path"),
}
"""Setting -> what its values look like, and what to give instead of another; empty is what the setting says it is."""
SERVED: Final = tuple(_SERVED)
_LOGIN: Final = re.compile(r"(?<=://)(?:([^/@:?#\s]*):)?.*@")
_NAMED: Final = re.compile(r"((?:pass\w*|pwd|secret|token|\w*key)\s*=\s*)[^\s&;]+", re.IGNORECASE)
_HIDDEN: Final = "********"


def shown(value: object) -> str:
    """Return a value in one line, without the passwords that are in it."""
    line = re.sub(r"[\x00-\x1f\x7f]", " ", str(value))
    without = _LOGIN.sub(lambda match: f"{match[1]}:{_HIDDEN}@" if match[1] else f"{_HIDDEN}@", line)
    return _NAMED.sub(rf"\g<1>{_HIDDEN}", without)


def require_served(field: str, value: str) -> None:
    """Raise ValueError where the service can do nothing with a value."""
    pattern, instead = _SERVED[field]
    if value and not re.fullmatch(pattern, value):
        raise ValueError(instead)
    if field == "store_url" and value.startswith("file:"):
        require_folder(Path(unquote(urlsplit(value).path)))


def require_folder(path: Path) -> None:
    """Raise ValueError where a path is no folder, and cannot become one."""
    if str(path).startswith("~"):
        raise ValueError("write it out: no shell reads this, and `~` would be a folder of that name")
    # Not Path.exists, which raises where a folder above may not be read.
    file = next((at for at in (path, *path.parents) if os.path.exists(at) and not os.path.isdir(at)), None)  # noqa: PTH110, PTH112
    if file is not None:
        raise ValueError(f"{file} is a file: give the path of a folder")


def require_apart(folders: dict[str, Path], cleared: Iterable[str]) -> None:
    """Raise ValueError where a folder lies in one of those in which the service deletes unknown files."""
    real = {name: Path(os.path.realpath(folder)) for name, folder in folders.items()}
    for outer in cleared:
        for inner, folder in real.items():
            if inner != outer and outer in real and folder.is_relative_to(real[outer]):
                raise ValueError(f"{inner} lies in {outer}: give each a folder of its own")
