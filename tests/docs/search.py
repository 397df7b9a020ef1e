"""Search code and documents for a word, as a newcomer would: names of files first, then names inside, then prose.

`python -m tests.docs.search WORD...` prints the first files.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Final

from tests.docs.generated import ROOT

FOLDERS: Final = ("app", "espalier", "workers")
FILE, FOLDER, NAME, FIRST, PROSE = 40, 15, 10, 8, 1
"""What a hit counts in the name of a file, its folder, a class or function, in the first docstring, in another."""
FIRST_HITS: Final = 5


def plain(text: str) -> str:
    """Write RateSearch, rate_search and rate-search as rate search."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return re.sub(r"[^a-z0-9:]+", " ", apart.lower())


@cache
def texts() -> dict[str, tuple[str, str, str, str, str]]:
    """File -> its name, its folder's, the names or headings in it, its first docstring, the others."""
    read = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
            names = "\n".join(node.name for node in nodes)
            prose = "\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))
            parts = (path.stem, path.parent.name, names, ast.get_docstring(tree) or "", prose)
            read[path.relative_to(ROOT).as_posix()] = tuple(map(plain, parts))
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name == "questions.md":
            continue
        text = path.read_text(encoding="utf-8")
        headings = "\n".join(re.findall(r"^##+ (.+)$", text, re.MULTILINE))
        parts = (path.stem, path.parent.name, headings, text.split("\n## ")[0], "")
        read[path.relative_to(ROOT).as_posix()] = tuple(map(plain, parts))
    return read  # type: ignore[return-value]


def search(words: str) -> list[str]:
    """Return the files in which words stand, the likeliest first."""
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(plain(words).strip())}s?(?![a-z0-9])")
    scores: Counter[str] = Counter()
    for path, (file, folder, names, first, prose) in texts().items():
        hits = [len(pattern.findall(text)) for text in (file, folder, names, first, prose)]
        bounded = (hits[0], hits[1], min(hits[2], 3), min(hits[3], 2), min(hits[4], 5))
        scores[path] = sum(n * weight for n, weight in zip(bounded, (FILE, FOLDER, NAME, FIRST, PROSE), strict=True))
    return [path for path, score in sorted(scores.items(), key=lambda item: (-item[1], item[0])) if score]


if __name__ == "__main__":
    for hit in search(" ".join(sys.argv[1:]))[:FIRST_HITS]:
        print(Path(hit))  # noqa: T201
