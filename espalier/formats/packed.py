"""The bit-mask pack (docs/packed-format.md), alone or beside the dense files."""

from __future__ import annotations

from collections.abc import Sequence
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

    def write(self, dense: Sequence[Path]) -> list[Path]:
        """Pack every file."""
        return _packs(dense)


class DenseAndPackedFormat(ArtifactFormat):
    """Packs beside the dense files."""

    summary: ClassVar[str] = "dense tensors and the pack"
    how_to_load: ClassVar[str] = "It loads with stock transformers"
    keeps_dense: ClassVar[bool] = True
    drops_zeros: ClassVar[bool] = True

    format: Literal["both"] = "both"

    def write(self, dense: Sequence[Path]) -> list[Path]:
        """Pack every file."""
        return _packs(dense)


def _packs(dense: Sequence[Path]) -> list[Path]:
    from espalier.packing.pack import pack_file, packed_path  # noqa: PLC0415 - numpy, which reading a spec does without
    from espalier.packing.unpacking import unpack_file  # noqa: PLC0415

    packs = [packed_path(path) for path in dense]
    for path, pack in zip(dense, packs, strict=True):
        pack_file(path, pack)
        proof = path.with_name(f"{path.name}.proof")
        unpack_file(pack, proof)  # checks the sha256
        proof.unlink()
    return packs
