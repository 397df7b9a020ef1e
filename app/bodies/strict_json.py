"""Strict JSON, read in linear time: counted before it is parsed, so that no body holds up the process that reads it."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

from app.errors import MalformedRequest

MAX_DEPTH: Final = 32
"""Of arrays and objects; a job needs 8."""
MAX_VALUES: Final = 5000
"""Of a body, members and items at every depth; an upload of 1000 files has 4000."""
MAX_MEMBERS: Final = 1500
"""Of one object: each of them may be an error of its own, to be rendered in the event loop."""
MAX_DIGITS: Final = 1000
"""Of an integer: reading and writing one takes quadratic time."""
# Possessive, and an unclosed string ends with the body: no byte is looked at twice.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STRUCTURE = b"[]{},"
_OTHER = bytes(set(range(256)) - set(_STRUCTURE) - {ord('"')})
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")


def parse(body: bytes, *, max_values: int = MAX_VALUES) -> Any:  # noqa: ANN401 - JSON
    """Read strict JSON: UTF-8, no NaN, no member twice, no NUL, no lone surrogate, of bounded depth and length.

    Raises MalformedRequest.
    """
    _count(body, max_values)
    if _NUL.search(body):
        raise MalformedRequest("The body holds a NUL character.")
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse_constant
        )
        json.dumps(document, ensure_ascii=False).encode()
    except MalformedRequest:
        raise
    except (ValueError, RecursionError):
        raise MalformedRequest("The body is not JSON in UTF-8.") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_MEMBERS:
        raise MalformedRequest(f"An object of the body has more than {MAX_MEMBERS} members.")
    document = dict(pairs)
    if len(document) < len(pairs):
        raise MalformedRequest("An object of the body has a member twice.")
    return document


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise MalformedRequest(f"A number of the body has more than {MAX_DIGITS} digits.")
    return int(text)


def _refuse_constant(_name: str) -> NoReturn:
    raise MalformedRequest("NaN and Infinity are not JSON.")


def _nothing(_match: re.Match[bytes]) -> bytes:
    return b""


def _count(body: bytes, max_values: int) -> None:
    """Raise where a body has more values, or nests them deeper, than any request needs."""
    # Every string is a value or a member's name. A function as the replacement lets other threads run in between.
    structure = _STRING.sub(_nothing, body, 2 * max_values).translate(None, _OTHER)
    opened = structure.count(b"[") + structure.count(b"{")
    if b'"' in structure or opened + structure.count(b",") > max_values:
        raise MalformedRequest(f"The body has more than {max_values} values.")
    depth = 0
    for byte in structure:
        if byte in b"[{":
            depth += 1
        elif byte in b"]}":
            depth -= 1
        if depth > MAX_DEPTH:
            raise MalformedRequest(f"The body is nested deeper than {MAX_DEPTH}.")
        if depth < 0:
            raise MalformedRequest("The body is not JSON in UTF-8.")
