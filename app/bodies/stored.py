"""Documents that rows and messages keep, read into models: each once per process, whoever asks for it.

What a caller sends is parsed where it comes in. What was written down is read here alone: as JSON, because the strict
models take lists and numbers that way, and by the validators of today, because old rows stay readable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from app.bodies.job import JobRequest
from espalier.recipe import presets
from espalier.recipe.base import canonical
from espalier.recipe.spec import CompressionSpec

MOST_KEPT: Final = 256
"""Specs, of some 20 kB each: more than one estimate, one search and one worker's slots ask for."""


def stored_spec(document: Mapping[str, Any]) -> CompressionSpec:
    """Return the spec of a row or a message; raises ValidationError where this version takes none such.

    The same document gives the same object, which nobody changes.
    """
    # A preset's name has a meaning per project: such a document is no cache key of a process that serves several.
    cacheable = document.get("preset") is None or presets.LOOKUP.get() is None
    return (_spec if cacheable else _spec.__wrapped__)(canonical(document))


def stored_request(document: Mapping[str, Any]) -> JobRequest:
    """Return the request of a row, as it was sent; raises ValidationError where this version takes none such."""
    return JobRequest.model_validate_json(canonical(document))


@lru_cache(MOST_KEPT)
def _spec(text: str) -> CompressionSpec:
    return CompressionSpec.model_validate_json(text)
