"""Find the modules below a package, so that a newcomer is one file and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def offered(package: ModuleType, name: str, kind: type[T]) -> list[tuple[ModuleType, T]]:
    """Import every module below a package, folder by folder, and return each with what it calls `name`.

    Raises TypeError on one that has nothing of the kind: a file that is forgotten must stop the process.
    """
    offers = []
    for module in _below(package):
        value = getattr(module, name, None)
        if not isinstance(value, kind):
            raise TypeError(f"{module.__name__} has no `{name}` that is a {kind.__name__}")
        offers.append((module, value))
    return offers


def _below(package: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(package.__path__, prefix=f"{package.__name__}."):
        module = importlib.import_module(info.name)
        if info.ispkg:
            yield from _below(module)
        else:
            yield module
