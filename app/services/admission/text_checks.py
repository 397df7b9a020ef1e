"""Checks of a text on this machine at POST: that it can be read, has the column, and is long enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from espalier.documents.text_files import HEAD_BYTES, form_of, inspect_head, no_column, not_a_text
from espalier.errors import DatasetRefused, Problem
from espalier.recipe.steps.dataset import LocalDataset

SPECIAL_TOKENS = 8
"""That a tokenizer may put around a text; inside of it no token has less than a byte."""


def unreadable(pointer: str, dataset: LocalDataset) -> Iterator[Problem]:
    """Yield why a file of this machine cannot be read as the request says."""
    path = Path(dataset.path)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        seen = inspect_head(path.name, head, whole=len(head) == path.stat().st_size)
    except DatasetRefused as error:
        yield Problem(f"{pointer}/path", error.code, error.detail)
        return
    except OSError:
        return  # the run tells
    if seen.columns and dataset.column not in seen.columns:
        absent = no_column(path.name, dataset.column, seen.columns)
        yield Problem(f"{pointer}/column", "no-such-column", absent.detail)
    elif (kind := seen.others.get(dataset.column)) is not None:
        yield Problem(f"{pointer}/column", "no-text", not_a_text(path.name, dataset.column, kind).detail)


def too_short(pointer: str, name: str, size: int, *, tokens: int, fix: str) -> Iterator[Problem]:
    """Yield why a file of `size` bytes cannot hold so many tokens; `fix`: the field that asks for fewer."""
    if not packed(name) and size + SPECIAL_TOKENS < tokens:
        detail = f"{name} has {size} bytes, so at most as many tokens, and {tokens} are read: give more text, or "
        yield Problem(pointer, "text-too-short", f"{detail}lower `{fix}`")


def packed(name: str) -> bool:
    """Tell whether a file may hold more text than it has bytes."""
    try:
        form = form_of(name)
    except DatasetRefused:
        return True
    return form.gzipped or form.kind == "parquet"
