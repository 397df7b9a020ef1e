"""Split a long text at line ends, so that it can be tokenised piece by piece; no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from espalier.memory.text import PIECE_BYTES


def pieces(stream: IO[bytes]) -> Iterator[str]:
    """Yield a UTF-8 text: whole where it is short, else cut behind line ends (spaces, characters where there are none).

    Line ends of all systems are read as newlines. Raises UnicodeDecodeError.
    """
    rest = b""
    while rest := rest + stream.read(PIECE_BYTES + 1 - len(rest)):
        end = len(rest) if len(rest) <= PIECE_BYTES else _last_cut(rest)
        yield rest[:end].decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        rest = rest[end:]


def _last_cut(data: bytes) -> int:
    """Return the last position in the first PIECE_BYTES where a piece may end."""
    for mark in (b"\n", b" "):
        if end := data.rfind(mark, 0, PIECE_BYTES) + 1:
            return end
    # A character has at most four bytes, and all but its first begin with the bits 10.
    inside = (end for end in range(PIECE_BYTES, PIECE_BYTES - 4, -1) if data[end] & 0xC0 != 0x80)
    return next(inside, PIECE_BYTES)
