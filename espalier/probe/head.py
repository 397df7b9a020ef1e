"""Detect a tied head: compare the stored head with the embeddings, whatever the configuration says.

Stock transformers ties the two only where the files hold one of them, or both with equal values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from espalier.families import Family
from espalier.probe.headers import Tensor

SLICES = 16
SLICE_BYTES = 2**16
"""So much of both is compared where an answer is waited for; a fetched model is compared whole."""
CHUNK_BYTES = 2**22


def embeddings(family: Family) -> str:
    """Return the parameter that a tied head is."""
    (shape,) = family.head_shapes().values()
    return next(name for name, other in family.outer_shapes().items() if other == shape)


def as_stored(family: Family, tensors: dict[str, Tensor], directory: Path, *, whole: bool) -> Family:
    """Return the configuration with the head untied where the files hold one that differs from the embeddings."""
    if not family.tie_word_embeddings:
        return family
    named = {family.parameter(name): tensor for name, tensor in tensors.items()}
    head, rows = (named.get(name) for name in (*family.head_shapes(), embeddings(family)))
    if head is None or rows is None or _equal(head, rows, directory, whole=whole):
        return family
    return family.model_copy(update={"tie_word_embeddings": False})


def _equal(head: Tensor, rows: Tensor, directory: Path, *, whole: bool) -> bool:
    if (head.dtype, head.shape) != (rows.dtype, rows.shape):
        return False
    nonzero = False
    with (directory / head.file).open("rb") as one, (directory / rows.file).open("rb") as other:
        for at, size in _chunks(head.bytes, whole=whole):
            one.seek(head.begin + at)
            other.seek(rows.begin + at)
            data = one.read(size)
            if data != other.read(size):
                return False
            nonzero |= any(data)
    return nonzero or whole  # zeros alone may be the holes of a model of which only the beginning is here


def _chunks(num_bytes: int, *, whole: bool) -> Iterator[tuple[int, int]]:
    """Yield the offset and length of each part to read: everything, or samples."""
    if whole or num_bytes <= SLICES * SLICE_BYTES:
        yield from ((at, min(CHUNK_BYTES, num_bytes - at)) for at in range(0, num_bytes, CHUNK_BYTES))
    else:
        yield from (((num_bytes - SLICE_BYTES) * index // (SLICES - 1), SLICE_BYTES) for index in range(SLICES))
