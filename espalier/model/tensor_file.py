"""One safetensors file, read tensor by tensor into memory of its own: a mapping would keep every page that was read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from espalier.errors import UnsafeFileError
from espalier.progress import count_step, counted

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes of safetensors files that the engine reads and writes."""

_CHUNK_BYTES: Final = 2**22


class TensorFile:
    """An open file; it stays readable when its name is gone, and closes with the last reference."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._stream = path.open("rb", buffering=0)
        length = int.from_bytes(self._stream.read(8), "little")
        if length > os.fstat(self._stream.fileno()).st_size:
            raise ValueError("its header is longer than the file")
        header: dict[str, Any] = json.loads(self._stream.read(length))
        header.pop("__metadata__", None)
        self._begin = 8 + length
        self._entries: dict[str, Any] = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))

    def __iter__(self) -> Iterator[str]:
        """Tensor names in the order of their bytes."""
        return iter(self._entries)

    def dtype(self, name: str) -> str:
        """Return the dtype by its safetensors name (`BF16`)."""
        return str(self._entries[name]["dtype"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape, without reading the tensor."""
        return tuple(self._entries[name]["shape"])

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor; the caller owns it."""
        return self._read(name, self.shape(name), skip=0)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the bytes of a tensor, a few MiB at a time."""
        begin, end = (self._begin + offset for offset in self._entries[name]["data_offsets"])
        for at in counted(range(begin, end, _CHUNK_BYTES)):
            yield os.pread(self._stream.fileno(), min(_CHUNK_BYTES, end - at), at)

    def read_rows(self, name: str, index: int, begin: int, end: int) -> torch.Tensor:
        """Read `tensor[index, begin:end]` of a tensor of three dimensions, and nothing else of it."""
        _, rows, columns = self.shape(name)
        return self._read(name, (end - begin, columns), skip=(index * rows + begin) * columns)

    def _read(self, name: str, shape: tuple[int, ...], *, skip: int) -> torch.Tensor:
        """Read `shape` elements from the `skip`-th one on."""
        count_step()
        dtype = DTYPES[self.dtype(name)]
        raw = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
        view, offset = raw.numpy().data, self._begin + self._entries[name]["data_offsets"][0]
        offset += skip * dtype.itemsize
        while view:
            count = os.preadv(self._stream.fileno(), [view], offset)
            if count == 0:
                raise UnsafeFileError(
                    f"{self._name} ends inside of {name}", hint="Bring the file again, whole.", module=self._name
                )
            view, offset = view[count:], offset + count
        return raw.view(dtype).view(shape)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()
