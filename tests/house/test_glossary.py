"""Words of before stay away: each that the glossary lists is gone, or becomes rarer until it is."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.fixtures.suite.pages import ROOT, pages
from tests.house.graph import PRODUCT, files

GLOSSARY: Final = "docs/glossary.md"
PORTAL: Final = "app/portal"
SECTION: Final = "\n## Words of before\n"
SCOPES: Final = ("modules", "names", "everywhere")
NOT_YET: Final[dict[str, int]] = {
    "least": 1,
    "turn": 5,
}
"""Word -> in how many files it may stand for now. A number may only fall; what is gone is taken off.

`turn` is the name of a stored column and of a stored field, `least` of a stored field; they stay.
"""


def table(text: str) -> list[list[str]]:
    """The cells of each row of the first table of a text."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@cache
def words_of_before() -> Mapping[str, str]:
    """Word -> what it is kept out of: modules, names, or everywhere."""
    rows = table((ROOT / GLOSSARY).read_text().split(SECTION)[1])
    return {word: scope for words, _, scope in rows for word in re.findall(r"`(\w+)`", words)}


def names(path: Path) -> Iterator[str]:
    """Every name that a file gives: its own, those of classes, functions, arguments, variables and attributes."""
    yield path.parent.name if path.name == "__init__.py" else path.stem
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def prose(path: Path) -> Iterator[str]:
    """Yield comments, and texts that stand alone: docstrings, of fields too."""
    text = (ROOT / path).read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def documents() -> Iterator[Path]:
    """Yield what else people read: documents, and templates, scripts and styles of the portal."""
    yield from pages()
    yield from (ROOT / PORTAL / "templates").glob("*.html")
    yield from (ROOT / PORTAL / "static").glob("portal.*")


@cache
def occurrences() -> Mapping[str, frozenset[str]]:
    """Word of before -> files in which it stands where it must not."""
    seen: dict[str, set[str]] = defaultdict(set)
    of = {scope: {word for word, its in words_of_before().items() if its == scope} for scope in SCOPES}
    modules, everywhere = words_of_before().keys(), of["everywhere"]
    for path in files(*PRODUCT):
        module, *given = (name.strip("_") for name in names(path))
        written = set(re.findall(r"\w+", "\n".join(prose(path))))
        for word in ({module} & modules) | ({*given} & (of["names"] | everywhere)) | (written & everywhere):
            seen[word].add(path.as_posix())
    for page in documents():
        if page != ROOT / GLOSSARY:
            for word in set(re.findall(r"\w+", page.read_text())) & everywhere:
                seen[word].add(page.relative_to(ROOT).as_posix())
    return {word: frozenset(paths) for word, paths in seen.items()}


@pytest.mark.parametrize("word", words_of_before())
def test_a_word_of_before_is_gone_or_becomes_rarer(word: str) -> None:
    where = occurrences().get(word, frozenset())
    assert len(where) <= NOT_YET.get(word, 0), f"the glossary has the word to use: {sorted(where)}"


def test_what_is_renamed_is_off_the_list() -> None:
    assert {word for word in NOT_YET if not occurrences().get(word)} == set()
    assert NOT_YET.keys() - words_of_before().keys() == set()


def test_a_term_is_defined_where_the_glossary_says() -> None:
    text, _ = (ROOT / GLOSSARY).read_text().split(SECTION)
    rows = table(text)
    assert [term for term, *_ in rows] == sorted((term for term, *_ in rows), key=str.lower)
    assert [where for *_, where in rows if not (ROOT / where.strip("`")).exists()] == []
