"""Parse rows of JSON from a stream of characters: lines, one list, or concatenated objects; bounded in size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from espalier.documents.text_files import AS_ROWS, IN_ROWS, kind_of, no_column, not_a_text
from espalier.errors import DatasetRefused

MAX_ROW: Final = 8 * 2**20
"""Characters of one row: what they unfold to has to fit into memory."""
PATIENCE: Final = 1000
"""Rows without the column, one after the other from the first, until it is taken for absent."""
_BETWEEN: Final = re.compile(r"[\s,\x00\x1e\ufeff]*")
_CUT: Final = 16
"""Characters before the end in which a value may be in the middle of a word or an escape."""


class _TwiceError(ValueError):
    """An object says the column twice."""


def texts(
    chunks: Iterator[str], column: str, name: str, *, given_up: Callable[[], bool] = lambda: False
) -> Iterator[str | None]:
    """Yield the text of every row of a file; None of a row that has none there.

    `given_up`: whether the characters end where no more are read, and not where the file does.
    """
    first: tuple[str, ...] | None = None
    present = False
    for number, row in enumerate(_values(chunks, column, name, given_up), 1):
        if row is None:
            yield None
            continue
        if not isinstance(row, dict):
            kind = "a list" if isinstance(row, list) else "a string" if isinstance(row, str) else "no object"
            hint = f"Rows are JSON objects with a text in `{column}`. {AS_ROWS}"
            raise DatasetRefused(f"Row {number} of {name} is {kind}.", hint=hint)
        first = tuple(row) if first is None else first
        value = row.get(column)
        present |= column in row
        if not present and number == PATIENCE:
            break
        if (other := kind_of(value)) is not None:
            raise not_a_text(f"Row {number} of {name}", column, other)
        yield value if isinstance(value, str) else None
    if first is not None and not present:
        raise no_column(name, column, first)


def _values(chunks: Iterator[str], column: str, name: str, given_up: Callable[[], bool]) -> Iterator[object]:
    parse = _parser(column, name)
    buffer, at, number, ended, listed, closed = "", 0, 0, False, False, False
    while True:
        at = _end_of(_BETWEEN, buffer, at)
        mark = buffer[at : at + 1]
        if mark == "[" and number == 0 and not listed:
            listed, at = True, at + 1
            continue
        if mark and closed:
            raise DatasetRefused(f"{name} has more behind its list.", hint=AS_ROWS)
        if mark == "]" and listed:
            closed, at = True, at + 1
            continue
        if mark and (parsed := parse(buffer, at, number + 1, ended and not given_up())) is not None:
            number, (value, at) = number + 1, parsed
            yield value
            continue
        if ended:
            if listed and not closed and not given_up():
                raise DatasetRefused(f"{name} ends within its list.", hint="It may be cut: write it again.")
            return
        rest = buffer[at:]
        buffer, at, ended = _more(chunks, rest, wanted=2 * len(rest))


def _parser(column: str, name: str) -> Callable[[str, int, int, bool], tuple[object, int] | None]:
    """Return what parses the value at a place; None where more characters are needed for that."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) < len(items) and sum(key == column for key, _ in items) > 1:
            raise _TwiceError
        return value

    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_int=float, strict=False)

    def parse(buffer: str, at: int, number: int, ended: bool) -> tuple[object, int] | None:
        where = f"Row {number} of {name}"
        try:
            return decoder.raw_decode(buffer, at)
        except _TwiceError:
            raise DatasetRefused(f"{where} says `{column}` twice.", hint="Which of the two is meant?") from None
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - _CUT
            if ended or not cut:
                hint = "JSON lines have one object in each line, strings in double quotes."
                raise DatasetRefused(f"{where} is not JSON: {error.msg}.", hint=hint) from None
        except RecursionError:
            hint = "Leave out what nests so."
            raise DatasetRefused(f"{where} is not JSON that can be read: nested too deeply.", hint=hint) from None
        if len(buffer) - at > MAX_ROW:
            hint = f"Split its document into several rows. If it is a whole table: {IN_ROWS}"
            raise DatasetRefused(f"{where} is longer than {MAX_ROW >> 20} Mi characters.", hint=hint)
        return None

    return parse


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None
    return match.end()


def _more(chunks: Iterator[str], rest: str, *, wanted: int) -> tuple[str, int, bool]:
    """Read more characters behind those left, twice as many, so that a long value is not parsed again and again."""
    parts, size = [rest], len(rest)
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > wanted:
            return "".join(parts), 0, False
    return "".join(parts), 0, True
