"""Formats of artifacts, one class each: a file that is dropped in here is a word of `output.format`, and is written."""

from __future__ import annotations

from typing import Final

from espalier.discovery import discover
from espalier.formats.base import ArtifactFormat

FORMATS: Final = discover("espalier.formats", ArtifactFormat, tag="format")  # type: ignore[type-abstract]
"""By name."""
