"""Every module says in one sentence what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("app", "espalier", "workers")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_one_sentence(module: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert docstring, f"{module} has no docstring"
    first = docstring.split("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", "?")), f"{module}: {first!r} is no sentence"
