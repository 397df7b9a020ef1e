"""Discover the classes of a package, so that adding one takes a single file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, base: type[T], *, tag: str, nested: bool = False) -> dict[str, type[T]]:
    """Import every module of `package` and return its subclasses of `base` by their `tag`, sorted.

    `nested`: the modules lie in the folders of the package, whatever they are called.
    `tag` names a pydantic field whose default, or a class variable whose value, is its name (`kind`, `method`).
    Raises TypeError when two classes claim one name or a class has none: a broken declaration must stop the process.
    """
    classes: dict[str, type[T]] = {}
    for name in _modules(package, nested=nested):
        module = importlib.import_module(name)
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, base) and value.__module__ == name):
                continue
            if value is base or (nested and inspect.isabstract(value)):  # it lies in the same package
                continue
            fields = getattr(value, "model_fields", {})
            kind = fields[tag].default if tag in fields else getattr(value, tag, None)
            if not isinstance(kind, str):
                raise TypeError(f"{name}.{value.__name__} declares no `{tag}`")
            if kind in classes:
                raise TypeError(f"{name}.{value.__name__} and {classes[kind].__module__} are both called {kind!r}")
            classes[kind] = value
    return dict(sorted(classes.items()))


def _modules(package: str, *, nested: bool) -> Iterator[str]:
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, prefix=f"{package}."):
        if not nested:
            yield info.name
        elif info.ispkg:
            yield from _modules(info.name, nested=False)
