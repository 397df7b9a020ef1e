"""Globs of users, as fnmatch reads them, matched by RE2: in linear time, whatever the text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import re2

_PARTS: Final = re.compile(r"\*+|\?|\[(!?)(\]?[^\]]*)\]|.", re.DOTALL)
_NOTHING: Final = r"[^\x00-\x{10FFFF}]"


def matches(glob: str, text: str) -> bool:
    """Tell whether a glob matches a whole text: `*`, `?`, `[ab]`, `[!a-c]`; upper and lower case differ."""
    return _compiled(glob).search(text.encode()) is not None


@lru_cache(maxsize=32)
def _compiled(glob: str) -> Any:  # noqa: ANN401 - RE2 has no types
    options = re2.Options()
    options.never_capture = options.dot_nl = True
    return re2.compile(rf"\A{''.join(map(_part, _PARTS.finditer(glob)))}\z", options)


def _part(match: re.Match[str]) -> str:
    text = match[0]
    if text[0] == "*":
        return ".*"
    if text == "?":
        return "."
    return re2.escape(text) if match[2] is None else _set(match[2], inverted=bool(match[1]))


def _set(chars: str, *, inverted: bool) -> str:
    ranges, index = [], 0
    while index < len(chars):
        wide = chars[index + 1 : index + 2] == "-" and index + 2 < len(chars)
        first, last = chars[index], chars[index + 2 if wide else index]
        if first <= last:
            ranges.append(rf"\x{{{ord(first):x}}}-\x{{{ord(last):x}}}")
        index += 3 if wide else 1
    if not ranges:
        return "." if inverted else _NOTHING
    return f"[{'^' if inverted else ''}{''.join(ranges)}]"
