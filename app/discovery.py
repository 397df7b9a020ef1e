"""Find the classes that a package offers, so that a newcomer is one file and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, base: type[T], *, tag: str) -> dict[str, type[T]]:
    """Import every module of `package` and return its subclasses of `base` by their `tag`, sorted.

    `tag` names a pydantic field whose default is the class's name in a spec (`kind`, `method`).
    Raises TypeError when two classes claim one name or a class has none: a broken declaration must stop the process.
    """
    found: dict[str, type[T]] = {}
    root = importlib.import_module(package)
    for info in pkgutil.iter_modules(root.__path__, prefix=f"{package}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if not (isinstance(value, type) and issubclass(value, base) and value.__module__ == info.name):
                continue
            if value is base:  # it lies in the same package
                continue
            fields = getattr(value, "model_fields", {})
            name = fields[tag].default if tag in fields else None
            if not isinstance(name, str):
                raise TypeError(f"{info.name}.{value.__name__} declares no `{tag}`")
            if name in found:
                raise TypeError(f"{info.name}.{value.__name__} and {found[name].__module__} are both called {name!r}")
            found[name] = value
    return dict(sorted(found.items()))
