"""Search code and documents for words, as a newcomer would: names of files first, then names inside, then prose.

`python -m tests.docs.search WORD...` prints the first files, and the tests that speak of the same.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from tests.docs.generated import ROOT

FOLDERS: Final = ("app", "espalier", "workers")
TESTS: Final = "tests"
PAGES: Final = ("*.md", "docs/*.md", "docs/decisions/*.md")
WITHOUT: Final = ("docs/questions.md", "CHANGELOG.md")
"""The first would answer everything, and what was once is no answer."""
FILE, FOLDER, NAME, FIRST, PROSE = 40, 15, 10, 8, 1
"""What a hit counts in the name of a file, its folder, a class or function, in the first docstring, in another."""
FIRST_HITS: Final = 5
Parts = tuple[str, str, str, str, str]


def plain(text: str) -> str:
    """Write RateSearch, rate_search and rate-search as rate search."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return re.sub(r"[^a-z0-9:]+", " ", apart.lower())


@cache
def texts() -> dict[str, Parts]:
    """File -> its name, its folder's, the names or headings in it, its first docstring, the others."""
    modules = (path for folder in (*FOLDERS, TESTS) for path in sorted((ROOT / folder).rglob("*.py")))
    pages = (path for pattern in PAGES for path in sorted(ROOT.glob(pattern)))
    read = {path.relative_to(ROOT).as_posix(): _module(path) for path in modules}
    read |= {path.relative_to(ROOT).as_posix(): _page(path) for path in pages}
    return {path: parts for path, parts in read.items() if path not in WITHOUT}


def _module(path: Path) -> Parts:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = (t for node in tree.body for t in getattr(node, "targets", [getattr(node, "target", None)]))
    constants = (target.id for target in targets if isinstance(target, ast.Name))
    names = "\n".join([*(node.name for node in nodes), *constants])
    prose = "\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))
    return _plain(path.stem, path.parent.name, names, ast.get_docstring(tree) or "", prose)


def _page(path: Path) -> Parts:
    text = path.read_text(encoding="utf-8")
    headings = "\n".join(re.findall(r"^##+ (.+)$", text, re.MULTILINE))
    first, _, rest = text.partition("\n## ")
    return _plain(path.stem, path.parent.name, headings, first, rest)


def _plain(file: str, folder: str, names: str, first: str, prose: str) -> Parts:
    return plain(file), plain(folder), plain(names), plain(first), plain(prose)


def search(words: str, *, tests: bool = False) -> list[str]:
    """Return the files in which the words stand together, the likeliest first; then those in which each stands."""
    phrase = plain(words).strip()
    together = _ranked([phrase], tests)
    return together + [path for path in _ranked(phrase.split(), tests) if path not in together]


def _ranked(parts: list[str], tests: bool) -> list[str]:
    """Return the files that hold every part, those first whose scarcest part counts most."""
    scores: Counter[str] = Counter()
    patterns = [re.compile(rf"(?<![a-z0-9]){re.escape(part.removesuffix('s'))}s?(?![a-z0-9])") for part in parts]
    for path, texts_of in texts().items():
        if path.startswith(f"{TESTS}/") == tests:
            each = sorted(_score(pattern, texts_of) for pattern in patterns)
            scores[path] = each[0] and each[0] * 100 + sum(each)
    return [path for path, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])) if score]


def _score(pattern: re.Pattern[str], parts: Parts) -> int:
    hits = [len(pattern.findall(text)) for text in parts]
    bounded = (hits[0], hits[1], min(hits[2], 3), min(hits[3], 2), min(hits[4], 5))
    return sum(n * weight for n, weight in zip(bounded, (FILE, FOLDER, NAME, FIRST, PROSE), strict=True))


def _lines(words: str) -> Iterator[str]:
    hits, tests = search(words), search(words, tests=True)
    yield from hits[:FIRST_HITS]
    yield from tests[:FIRST_HITS]
    if not hits + tests:
        yield f"no file holds all of: {words}; try fewer words, or one of docs/glossary.md"


if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit("python -m tests.docs.search WORD...")
    for line in _lines(" ".join(sys.argv[1:])):
        print(line)  # noqa: T201
