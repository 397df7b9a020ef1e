"""The house's files, and who imports whom: imports inside of functions and under TYPE_CHECKING count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import grimp

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("app", "espalier", "workers")


def files(*folders: str) -> Iterator[Path]:
    """Python files below folders of the repository, relative to it."""
    for folder in folders:
        yield from sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """Every module of the product, and those of the product that it imports."""
    graph = grimp.build_graph(*PRODUCT, cache_dir=None)
    return {name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def between_children(package: str, edges: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """Which child of a package imports which other one, with all that lies below each."""
    depth = package.count(".") + 2 if package else 1

    def child(name: str) -> str | None:
        return ".".join(name.split(".")[:depth]) if name.startswith(f"{package}." if package else "") else None

    children: dict[str, set[str]] = {}
    for importer, imported in edges.items():
        if (source := child(importer)) is not None:
            children.setdefault(source, set()).update(
                target for name in imported if (target := child(name)) is not None and target != source
            )
    return children


def cycle(edges: Mapping[str, set[str] | frozenset[str]]) -> list[str]:
    """A ring of imports; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        path: list[str] = error.args[1]
        return path
    return []
