"""Compress transformer models: `compress` in this process, `Client` through a service; `inspect`, `unpack` artifacts.

The package stands alone: it takes nothing from `app` or `workers`, names that a project of yours may have itself. What
it offers is loaded when it is asked for: the service's short-lived processes, which share the rest, do without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from espalier.version import VERSION

if TYPE_CHECKING:
    from espalier.client import BadDownload, Client, NothingToUpload, ServiceError, Unreachable
    from espalier.door import Report, compress, inspect, unpack
    from espalier.recipe.reading import RecipeError

__all__ = [
    "BadDownload",
    "Client",
    "NothingToUpload",
    "RecipeError",
    "Report",
    "ServiceError",
    "Unreachable",
    "compress",
    "inspect",
    "unpack",
]
__version__ = VERSION
_HOMES: Final = {"RecipeError": "recipe.reading", **dict.fromkeys(("Report", "compress", "inspect", "unpack"), "door")}
"""Modules of the package, for what is not the client's: they take more than the base of the distribution has."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as PEP 562 has it
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f"espalier.{_HOMES.get(name, 'client')}")
    except ModuleNotFoundError as error:
        if name not in _HOMES or (error.name or "").partition(".")[0] == __name__:
            raise
        raise ImportError(f"{error}: espalier.{name} needs `pip install 'espalier-compress[compress]'`") from None
    return getattr(home, name)
