"""Find the classes that a package offers, so that a newcomer is one file and nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, base: type[T], *, tag: str, named: str | None = None) -> dict[str, type[T]]:
    """Import every module of `package` and return its subclasses of `base` by their `tag`, sorted.

    `named`: every folder of the package may hold one module of this name, and only those are looked into.
    `tag` names a pydantic field whose default, or a class variable whose value, is its name (`kind`, `method`).
    Raises TypeError when two classes claim one name or a class has none: a broken declaration must stop the process.
    """
    found: dict[str, type[T]] = {}
    for name in _modules(package, named):
        module = importlib.import_module(name)
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, base) and value.__module__ == name):
                continue
            if value is base:  # it lies in the same package
                continue
            fields = getattr(value, "model_fields", {})
            kind = fields[tag].default if tag in fields else getattr(value, tag, None)
            if not isinstance(kind, str):
                raise TypeError(f"{name}.{value.__name__} declares no `{tag}`")
            if kind in found:
                raise TypeError(f"{name}.{value.__name__} and {found[kind].__module__} are both called {kind!r}")
            found[kind] = value
    return dict(sorted(found.items()))


def _modules(package: str, named: str | None) -> Iterator[str]:
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, prefix=f"{package}."):
        if named is None:
            yield info.name
        elif info.ispkg and importlib.util.find_spec(f"{info.name}.{named}"):
            yield f"{info.name}.{named}"
