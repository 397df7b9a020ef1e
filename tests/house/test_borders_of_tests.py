"""A test stands alone: no other module imports it, and it meets the product at its doors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house.graph import PRODUCT, ROOT, files

FIXTURES: Final = ROOT / "tests/fixtures"
MAY_REACH: Final = {
    "tests/workers/background/test_loops.py": "loops without end are given one, in objects that are otherwise empty",
}
"""Tests that reach for what is private, and why no door would be better."""


def _imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, or may import: `from a import b` may bring the module a.b."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.parts[: -node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def test_nobody_imports_a_test_module() -> None:
    modules = {".".join(path.with_suffix("").parts) for path in files("tests")}
    tests = {name for name in modules if name.rpartition(".")[2].startswith(("test_", "conftest"))}
    importers = {path.as_posix(): names for path in files(*PRODUCT, "tests") if (names := tests & {*_imported(path)})}
    assert importers == {}, "what is shared lies in tests/fixtures, or in a module beside the tests"


def test_the_readme_of_the_fixtures_names_what_lies_there() -> None:
    first = {
        path.relative_to("tests/fixtures").as_posix(): (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "")
        for path in files("tests/fixtures")
        if path.name != "__init__.py"
    }
    wanted = [f"- `{name}`: {text.splitlines()[0]}" for name, text in first.items()]
    lines = [line for line in (FIXTURES / "README.md").read_text().splitlines() if line.startswith("- ")]
    assert lines == wanted


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _own(tree: ast.AST) -> set[str]:
    """Private names that a file gives: to functions, classes, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return {name for name in names if _private(name)}


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _reached(tree: ast.AST) -> Iterator[str]:
    """Names that a test takes of others: by import, as an attribute, or as the text that a patch is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Attribute) and not _is_self(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and _name(node.func) in {"getattr", "setattr", "delattr"}:
            texts = (item.value for item in node.args[:2] if isinstance(item, ast.Constant))
            yield from (text.rpartition(".")[2] for text in texts if isinstance(text, str))


def test_a_test_reaches_for_nothing_private() -> None:
    private = {name for path in files(*PRODUCT) for name in _own(ast.parse((ROOT / path).read_text()))}
    reaching = {}
    for path in files("tests"):
        tree = ast.parse((ROOT / path).read_text())
        if names := ({*_reached(tree)} & private) - _own(tree):
            reaching[path.as_posix()] = names
    assert reaching.keys() - MAY_REACH.keys() == set(), {
        path: reaching[path] for path in reaching.keys() - MAY_REACH.keys()
    }
    assert MAY_REACH.keys() - reaching.keys() == set(), "a test that goes through doors by now: off the list"
