"""A cache of probes: a folder is probed once, and again when one of its files changes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from app.services.admission import bounded
from espalier.probe.facts import ModelFacts

_Seen = tuple[tuple[str, int, int, int, int], ...]
REMEMBERED = 64
"""Folders."""
HERE = "local"
"""Who reads folders of this machine: whoever runs the embedded service."""


def probe_cached(directory: Path, roots: Sequence[Path] = ()) -> ModelFacts:
    """Return what `probe` returns, from memory where no file has changed since; refusals are not cached."""
    try:
        seen = _seen(directory)
    except OSError:
        return bounded.probe(directory, roots, owner=HERE)
    return _probed(directory, tuple(roots), seen)


def _seen(directory: Path) -> _Seen:
    """Return name, size, times and inode of every file; of a link, those of its target."""
    stats = []
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat()
            stats.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(sorted(stats))


@lru_cache(REMEMBERED)
def _probed(directory: Path, roots: tuple[Path, ...], _seen: _Seen) -> ModelFacts:
    return bounded.probe(directory, roots, owner=HERE)
