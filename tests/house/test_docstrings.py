"""Every module says in one sentence what it is for; every function's docstring begins with what the function does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

import pytest

from tests.house.graph import PRODUCT, ROOT, files
from tests.house.verbs import NOUNS_TOO, VERBS

MODULES: Final = [path.as_posix() for path in files(*PRODUCT)]
PROPERTIES: Final = ("property", "cached_property", "setter")
"""Their docstrings may be noun phrases, as those of classes and modules are."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_one_sentence(module: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert docstring, f"{module} has no docstring"
    first = docstring.split("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", "?")), f"{module}: {first!r} is no sentence"


def public_functions(body: list[ast.stmt]) -> Iterator[Function]:
    """Yield functions and methods that a caller may use; properties are none."""
    for node in body:
        if isinstance(node, ast.If):
            yield from public_functions([*node.body, *node.orelse])
        elif isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            if isinstance(node, ast.ClassDef):
                yield from public_functions(node.body)
            elif not any(ast.unparse(decorator).endswith(PROPERTIES) for decorator in node.decorator_list):
                yield node


def begins_with_a_verb(docstring: str) -> bool:
    """Tell whether the first word is a verb in the imperative; `Sum of` and `Name of` begin with a noun."""
    first, second = [word.strip(".,:;`").lower() for word in f"{docstring} . .".split()[:2]]
    return first in VERBS and not (second == "of" and first in NOUNS_TOO)


@pytest.mark.parametrize("module", MODULES)
def test_a_function_docstring_begins_with_a_verb(module: str) -> None:
    others = []
    for function in public_functions(ast.parse((ROOT / module).read_text()).body):
        docstring = ast.get_docstring(function)
        if docstring and not begins_with_a_verb(docstring):
            others.append(f"{function.lineno} {function.name}: {docstring.splitlines()[0]}")
    assert others == [], "begin with `Return`, `Prune`, `Yield`, ... (tests/house/verbs.py lists them)"
