"""What a text takes while a job reads it; plans, refusals and the limits of a running job share this arithmetic."""

from __future__ import annotations

from typing import Final

PIECE_BYTES: Final = 4 * 2**20
"""Of a piece that is tokenised at once (`espalier.text.pieces`, which the service does not load)."""
TOKENISING_BYTES: Final = 420
"""Of memory for a byte of the piece at hand: tokenizers keep offsets and words. Measured 165 to 230 for prose,
300 to 330 for code and 400 where every digit stands between separators."""
TOKEN_BYTES: Final = 4
"""Of an id that is kept; a text has at most one for each of its bytes."""


def memory_bytes(text_bytes: int) -> int:
    """Return the memory that a text of so many bytes takes while it is tokenised, at most; the tokenizer apart."""
    return TOKENISING_BYTES * min(text_bytes, PIECE_BYTES) + TOKEN_BYTES * text_bytes
