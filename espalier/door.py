"""The functions of the library, for a notebook: `import espalier; espalier.inspect("./small")`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from espalier.packing.summary import summary
from espalier.packing.unpacking import unpack_folder


def inspect(folder: str | PathLike[str]) -> dict[str, Any]:
    """Describe an artifact: parameters, zeros, patterns, bytes, and whether every file is as its manifest says.

    Raises PackError for a file that is not what it claims to be, and OSError where there is none.
    """
    return summary(Path(folder))


def unpack(folder: str | PathLike[str], output: str | PathLike[str] | None = None) -> list[Path]:
    """Write the dense safetensors files of a packed artifact, bit for bit, and return their paths.

    They go into `output`, together with all other files of the artifact, or beside the packed ones.
    Raises PackError where a file is damaged, or another lies in its place.
    """
    return list(unpack_folder(Path(folder), Path(folder if output is None else output)))
