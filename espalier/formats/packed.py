"""The bit-mask pack (docs/packed-format.md), alone or beside the dense files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from espalier.formats.base import ArtifactFormat


class PackedFormat(ArtifactFormat):
    """Packs without the dense files."""

    summary: ClassVar[str] = "a bit-mask pack without zeros (docs/packed-format.md)"
    how_to_load: ClassVar[str] = "After `espalier unpack path/to/this/folder` it loads with stock transformers"
    keeps_dense: ClassVar[bool] = False
    drops_zeros: ClassVar[bool] = True

    format: Literal["packed"] = "packed"

    def write(self, dense: Mapping[Path, str]) -> list[Path]:
        """Pack every file."""
        return _packs(dense)


class DenseAndPackedFormat(ArtifactFormat):
    """Packs beside the dense files."""

    summary: ClassVar[str] = "dense tensors and the pack"
    how_to_load: ClassVar[str] = "It loads with stock transformers"
    keeps_dense: ClassVar[bool] = True
    drops_zeros: ClassVar[bool] = True

    format: Literal["both"] = "both"

    def write(self, dense: Mapping[Path, str]) -> list[Path]:
        """Pack every file."""
        return _packs(dense)


def _packs(dense: Mapping[Path, str]) -> list[Path]:
    from espalier.packing.pack import pack_file, packed_path  # noqa: PLC0415 - numpy, which reading a spec does without
    from espalier.packing.unpacking import prove_file  # noqa: PLC0415

    for path, digest in dense.items():
        pack_file(path, packed_path(path), sha256=digest)
        prove_file(packed_path(path))
    return [packed_path(path) for path in dense]
