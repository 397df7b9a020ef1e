"""Memory of tokenising a text."""

from __future__ import annotations

from typing import Final

PIECE_BYTES: Final = 4 * 2**20
"""Of a text that is tokenised at once: a longer one is cut into such pieces."""
TOKENISING_BYTES: Final = 420
"""Of memory for a byte of the piece at hand: tokenizers keep offsets and words. Measured 165 to 230 for prose,
300 to 330 for code and 400 where every digit stands between separators."""
TOKEN_BYTES: Final = 4
"""Of an id that is kept; a text has at most one for each of its bytes."""


def tokenising_bytes(size: int) -> int:
    """Return the memory that a text of so many bytes takes while it is tokenised, at most; the tokenizer apart."""
    return TOKENISING_BYTES * min(size, PIECE_BYTES) + TOKEN_BYTES * size
