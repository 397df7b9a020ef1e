"""The house can be held in one's head: files to read at one go, folders to overlook, few that everybody needs.

A list below may only become shorter: what it names and what has become better is taken off it.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from typing import Final

from tests.house.graph import PRODUCT, ROOT, files, imports

MAX_LINES: Final = 300
MAX_FUNCTION_LINES: Final = 50
MAX_FILES: Final = 12
"""Beside `__init__.py`. Folders of tests hold as many files as there is to test, and are not measured."""
MIN_LINES: Final = 15
MAX_TINY_SHARE: Final = 0.01
MAX_IMPORTERS: Final = 30

TOO_WIDE: Final = {
    "app/db": 14,
    "espalier/model": 13,
    "espalier/probe": 14,
}
"""Folders that are too wide, and how wide they may be for now."""

ONE_FILE_EACH: Final = {"espalier/families"}
"""Folders as wide as there are things of their kind: a new one is one file, and no limit here is raised for it."""

FOUNDATIONS: Final = {
    "app.db.job": "the rows of a job, which most of the service is about",
    "app.db.session": "units of work: everything that reads or writes rows begins with one",
    "app.dependencies": "what an endpoint or a page may ask for: the caller, the resources, a session",
    "app.errors": "every refusal of the service",
    "app.settings": "the one place where settings are read",
    "espalier.errors": "every refusal of the library, and what ends a job, by name",
    "espalier.messages": "what a child and its supervisor tell each other",
    "espalier.methods.base": "what a method is: every method is one file",
    "espalier.model.numerics": "dtypes and exact sums, for everything that computes",
    "espalier.recipe.base": "what a document of the recipe is: every part of it is one",
    "espalier.recipe.spec": "the recipe itself",
    "espalier.session": "the paths, the model and the weights of one job: every phase works on them",
}
"""Modules that more than MAX_IMPORTERS others import, and why they may."""

SHOWN_BY: Final = "espalier/client/"
SHOWN: Final = ("app/db/", "app/api/")
"""A class of the client may bear the name of the row or the answer that it shows: one thing, seen from both sides."""


def test_no_file_is_longer_than_300_lines() -> None:
    sizes = {
        path.as_posix(): len((ROOT / path).read_text().splitlines())
        for path in files(*PRODUCT, "migrations", "tests")
        if not path.name.startswith("test_")
    }
    assert {path: lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_no_function_of_the_product_is_longer_than_50_lines() -> None:
    sizes = {
        f"{path.as_posix()}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files(*PRODUCT)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}


def test_hardly_a_file_is_too_small_to_be_one() -> None:
    modules = [path for path in files(*PRODUCT) if path.name != "__init__.py"]
    tiny = [path.as_posix() for path in modules if len((ROOT / path).read_text().splitlines()) < MIN_LINES]
    assert len(tiny) <= MAX_TINY_SHARE * len(modules), tiny


def test_no_folder_is_too_wide_to_be_overlooked() -> None:
    widths = Counter(
        path.parent.as_posix()
        for folders in (PRODUCT, ("tests/fixtures",))
        for path in files(*folders)
        if path.name != "__init__.py"
    )
    measured = {folder: width for folder, width in widths.items() if folder not in ONE_FILE_EACH}
    grown = {folder: width for folder, width in measured.items() if width > TOO_WIDE.get(folder, MAX_FILES)}
    assert grown == {}
    assert [folder for folder in TOO_WIDE if widths[folder] <= MAX_FILES] == [], "narrow by now: off the list"


def test_what_everybody_imports_is_a_foundation() -> None:
    importers = Counter(name for imported in imports().values() for name in imported)
    assert {name for name, count in importers.items() if count > MAX_IMPORTERS} - FOUNDATIONS.keys() == set()
    assert {name for name in FOUNDATIONS if importers[name] <= MAX_IMPORTERS} == set(), "not so needed: off the list"


def test_no_two_classes_bear_one_name() -> None:
    homes = defaultdict(list)
    for path in files(*PRODUCT):
        tree = ast.walk(ast.parse((ROOT / path).read_text()))
        for name in {node.name for node in tree if isinstance(node, ast.ClassDef) and node.name[0] != "_"}:
            homes[name].append(path.as_posix())
    assert {name: paths for name, paths in homes.items() if len(paths) > 1 and not _both_sides(paths)} == {}


def _both_sides(paths: list[str]) -> bool:
    shown = [path for path in paths if not path.startswith(SHOWN_BY)]
    return len(paths) == 2 and len(shown) == 1 and shown[0].startswith(SHOWN)


def test_nothing_is_called_utils_or_helpers() -> None:
    names = {path.stem for path in files(*PRODUCT, "tests")}
    assert names & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


def test_the_formatter_has_the_last_word() -> None:
    notations = ("# fmt: " + "skip", "# fmt: " + "off")
    texts = {path.as_posix(): (ROOT / path).read_text() for path in files(*PRODUCT, "migrations", "tests")}
    assert [path for path, text in texts.items() if any(mark in text for mark in notations)] == []
