"""Opaque, prefixed, time-sorted identifiers."""

from __future__ import annotations

from ulid import ULID


def new_id(prefix: str) -> str:
    """Return `<prefix>_<ULID>`; ids of one prefix sort by creation time."""
    return f"{prefix}_{ULID()}"
