"""A test stands alone: no other module imports it, and it meets the product at its doors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house.graph import PRODUCT, ROOT, files

FIXTURES: Final = ROOT / "tests/fixtures"


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
    found = {path.as_posix(): names for path in files(*PRODUCT, "tests") if (names := tests & {*_imported(path)})}
    assert found == {}, "what is shared lies in tests/fixtures, or in a module beside the tests"


def test_the_readme_of_the_fixtures_names_what_lies_there() -> None:
    first = {
        path.relative_to("tests/fixtures").as_posix(): (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "")
        for path in files("tests/fixtures")
        if path.name != "__init__.py"
    }
    wanted = [f"- `{name}`: {text.splitlines()[0]}" for name, text in first.items()]
    told = [line for line in (FIXTURES / "README.md").read_text().splitlines() if line.startswith("- ")]
    assert told == wanted
