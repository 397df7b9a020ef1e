"""A set of words is declared once, and read by all who use it: two lists of the same words drift apart."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.house.graph import ROOT, files

FOLDERS: Final = ("espalier", "workers")
THE_CLIENT: Final = "espalier/client/"
"""It says in its own words what the API answers, and takes nothing of the library."""
TWICE: Final[dict[frozenset[str], str]] = {}
"""Sets of words that stand in two places, and why they are not the same thing; it may only become shorter."""


def _literals(path: Path) -> Iterator[frozenset[str]]:
    """Yield every `Literal[...]` of several texts in a file."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            words = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            if len(texts) == len(words) > 1:
                yield frozenset(texts)


def test_no_two_literals_have_the_same_members() -> None:
    homes = defaultdict(list)
    for path in files(*FOLDERS):
        if not path.as_posix().startswith(THE_CLIENT):
            for words in _literals(path):
                homes[words].append(path.as_posix())
    twice = {words: paths for words, paths in homes.items() if len(paths) > 1}
    assert {words: paths for words, paths in twice.items() if words not in TWICE} == {}
    assert TWICE.keys() - twice.keys() == set(), "declared once by now: off the list"
