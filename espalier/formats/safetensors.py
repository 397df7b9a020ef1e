"""Dense tensors, zeros included: what stock transformers loads as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from espalier.formats.base import ArtifactFormat


class DenseFormat(ArtifactFormat):
    """Nothing but the dense files."""

    summary: ClassVar[str] = "dense tensors with zeros"
    how_to_load: ClassVar[str] = "It loads with stock transformers"
    keeps_dense: ClassVar[bool] = True
    drops_zeros: ClassVar[bool] = False

    format: Literal["safetensors"] = "safetensors"

    def write(self, dense: Mapping[Path, str]) -> list[Path]:  # noqa: ARG002 - the dense files are all of it
        """Write nothing more."""
        return []
