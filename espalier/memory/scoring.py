"""Memory of measuring a perplexity beside the model: the logits of a batch."""

from __future__ import annotations

from typing import Final

from espalier.memory.constants import FLOAT_BYTES

LOGITS_BYTES: Final = 256 * 2**20
"""Most for the logits of one batch, as float32: with large vocabularies they outweigh the model's activations."""
MAX_WINDOWS: Final = 8
"""Of a batch."""


def scoring_batch_size(length: int, vocabulary: int) -> int:
    """Return how many windows are scored at once; it decides bits of the measured numbers."""
    return max(1, min(MAX_WINDOWS, LOGITS_BYTES // (FLOAT_BYTES * length * vocabulary)))


def logits_bytes(length: int, vocabulary: int, *, itemsize: int) -> int:
    """Return what the logits of a batch take, and what is made of one window's: float32, and their logarithms."""
    one = vocabulary * length
    return one * scoring_batch_size(length, vocabulary) * itemsize + 2 * FLOAT_BYTES * one
