"""What a program of yours imports: `Client` speaks to a running service, `inspect` and `unpack` read its artifacts.

The package stands alone: it takes nothing from `app` or `workers`, names that a project of yours may have itself. What
it offers is loaded when it is asked for: the service's short-lived processes, which share the rest, do without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espalier.client import BadDownload, Client, NothingToUpload, ServiceError, Unreachable
    from espalier.door import inspect, unpack

__all__ = ["BadDownload", "Client", "NothingToUpload", "ServiceError", "Unreachable", "inspect", "unpack"]
_DOOR = ("inspect", "unpack")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as PEP 562 has it
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("espalier.door" if name in _DOOR else "espalier.client"), name)
