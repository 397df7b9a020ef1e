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
DTYPE_NAMES: Final[Mapping[torch.dtype, str]] = {dtype: name for name, dtype in DTYPES.items()}

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

    def require_whole(self) -> None:
        """Raise UnsafeFileError where the file ends before its last tensor does."""
        size = os.fstat(self._stream.fileno()).st_size
        for name, entry in self._entries.items():
            if self._begin + entry["data_offsets"][1] > size:
                raise self._too_short(name)

    def _too_short(self, name: str) -> UnsafeFileError:
        return UnsafeFileError(
            f"{self._name} ends inside of {name}", hint="Bring the file again, whole.", module=self._name
        )

    def expect(self, name: str) -> None:
        """Tell the kernel to bring a tensor's pages, where it can be told."""
        if hasattr(os, "posix_fadvise"):
            begin, end = (self._begin + offset for offset in self._entries[name]["data_offsets"])
            os.posix_fadvise(self._stream.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)

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
                raise self._too_short(name)
            view, offset = view[count:], offset + count
        return raw.view(dtype).view(shape)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """Copy as a file gives it back: products of another layout are rounded in another order."""
    return tensor.clone(memory_format=torch.contiguous_format)


class PendingFile:
    """A file that is being written: its tensors are read from memory until it is there."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors`: on the host, in the order of the file; nobody may write into them."""
        self._tensors: Mapping[str, torch.Tensor] | None = tensors
        self._file: TensorFile | None = None

    def written(self, path: Path) -> None:
        """Read from the file from now on, and let go of the memory; another thread may be reading."""
        self._file = TensorFile(path)
        self._tensors = None  # last: who finds no tensors finds the file

    def __iter__(self) -> Iterator[str]:
        """Tensor names in the order of their bytes."""
        return iter(list(self._source))

    def dtype(self, name: str) -> str:
        """Return the dtype by its safetensors name (`BF16`)."""
        source = self._source
        return source.dtype(name) if isinstance(source, TensorFile) else DTYPE_NAMES[source[name].dtype]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape, without reading the tensor."""
        source = self._source
        return source.shape(name) if isinstance(source, TensorFile) else tuple(source[name].shape)

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor; the caller owns it."""
        source = self._source
        return source.read(name) if isinstance(source, TensorFile) else _own(source[name])

    def read_rows(self, name: str, index: int, begin: int, end: int) -> torch.Tensor:
        """Read `tensor[index, begin:end]` of a tensor of three dimensions, and nothing else of it."""
        source = self._source
        if isinstance(source, TensorFile):
            return source.read_rows(name, index, begin, end)
        return _own(source[name][index, begin:end])

    def expect(self, name: str) -> None:
        """Do nothing: what was just written, or is about to be, lies in memory."""

    @property
    def _source(self) -> TensorFile | Mapping[str, torch.Tensor]:
        tensors = self._tensors
        if tensors is not None:
            return tensors
        assert self._file is not None
        return self._file
