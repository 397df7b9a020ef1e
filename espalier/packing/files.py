"""Safetensors files as the pack sees them: a header, and raw words that are read chunk by chunk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.unsignedinteger[Any]]
"""Elements as unsigned integers of their width: packing moves bits and knows no numbers."""

WIDTHS: Final = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes per element of every dtype that can be packed."""
HEADER_BYTES: Final = 16 * 2**20
"""Longest header that is read."""


class PackError(Exception):
    """A file is not what it claims to be; the message says where."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; offsets in bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def width(self) -> int:
        """Bytes per element."""
        return WIDTHS[self.dtype]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class RawTensorFile:
    """A safetensors file, opened."""

    path: Path

    @cached_property
    def text(self) -> str:
        """The header as it stands in the file, padding included."""
        size = self.path.stat().st_size
        with self.path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(HEADER_BYTES, size - 8):
                raise PackError(f"{self.path.name} is no safetensors file: its header has {length} bytes")
            try:
                return stream.read(length).decode()
            except UnicodeDecodeError:
                raise PackError(f"{self.path.name} is no safetensors file: its header is not UTF-8") from None

    @cached_property
    def header(self) -> dict[str, Any]:
        """The header, parsed."""
        return parse(self.text, where=self.path.name)

    @property
    def metadata(self) -> dict[str, str]:
        """The `__metadata__` of the header."""
        metadata: dict[str, str] = self.header.get("__metadata__", {})
        return metadata

    @cached_property
    def entries(self) -> list[Entry]:
        """The tensors in the order of their data."""
        return entries_of(self.header, where=self.path.name)

    @cached_property
    def _data(self) -> npt.NDArray[np.uint8]:
        start = 8 + len(self.text.encode())
        if self.path.stat().st_size == start:
            return np.zeros(0, dtype=np.uint8)  # nothing cannot be mapped
        return np.memmap(self.path, dtype=np.uint8, mode="r", offset=start)

    def words(self, entry: Entry) -> Words:
        """Map a tensor's elements in row-major order, without reading them."""
        if entry.end > len(self._data):
            raise PackError(f"{self.path.name} ends before {entry.name} does")
        return self._data[entry.begin : entry.end].view(f"<u{entry.width}")

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def parse(text: str, *, where: str) -> dict[str, Any]:
    """Parse a header; PackError when it is no JSON object."""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise PackError(f"the header of {where} is no JSON object")
    return header


def entries_of(header: dict[str, Any], *, where: str) -> list[Entry]:
    """List the tensors of a parsed header, checked: known dtypes, sizes that add up, data without holes or overlaps."""
    entries = [_entry(name, value, where) for name, value in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise PackError(f"the data of {where} do not follow one another at {entry.name}")
        position = entry.end
    return entries


def _entry(name: str, value: Any, where: str) -> Entry:  # noqa: ANN401 - JSON of unknown shape
    try:
        begin, end = value["data_offsets"]
        entry = Entry(name, str(value["dtype"]), tuple(int(size) for size in value["shape"]), int(begin), int(end))
    except (KeyError, TypeError, ValueError):
        raise PackError(f"the header of {where} does not describe {name!r}") from None
    if entry.dtype not in WIDTHS:
        raise PackError(f"{name} in {where} has the dtype {entry.dtype}, which cannot be packed")
    if min(entry.shape, default=0) < 0 or entry.end - entry.begin != entry.numel * entry.width:
        raise PackError(f"the size of {name} in {where} is not that of its shape")
    return entry


def chunks(numel: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` elements that cover `numel`."""
    for start in range(0, numel, size):
        yield slice(start, min(start + size, numel))
