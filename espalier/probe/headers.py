"""Parse safetensors headers more strictly than the format's library, which accepts what a hostile file may hide."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from espalier.errors import SourceNotFound, UnsafeSource
from espalier.probe import unsupported_files
from espalier.probe.documents import DISGUISES, parse_object, read_object

MAX_HEADER_BYTES = 16 * 2**20
MAX_INDEX_BYTES = 16 * 2**20
MAX_DIMENSIONS = 8
NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
SHARD = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}\.safetensors")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SAVE_AGAIN = "Save the model again with save_pretrained, which writes the index."

WEIGHT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
BUFFER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SIZES = WEIGHT_BYTES | BUFFER_BYTES


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int = 0
    """Where its bytes begin in the file."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return self.elements * SIZES[self.dtype]


def weight_files(directory: Path) -> list[str]:
    """Return the files that hold the weights; like stock transformers, a single file goes before an index."""
    if (directory / SINGLE).exists():
        return [SINGLE]
    if (directory / INDEX).exists():
        return sorted(set(_weight_map(directory).values()))
    names = [path.name for path in directory.iterdir()]
    raise unsupported_files.refuse(names, f"The folder has neither {SINGLE} nor {INDEX}.")


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Return every tensor of a model directory by name; an index must agree with the headers."""
    tensors: dict[str, Tensor] = {}
    names = weight_files(directory)
    for name in names:
        if not (directory / name).is_file():
            raise SourceNotFound(f"{INDEX} names {name}, which is missing.", hint=SAVE_AGAIN, module=name)
    if sum(header_bytes(directory / name) for name in names) > MAX_HEADER_BYTES:
        raise UnsafeSource(f"The headers of the weights take more than {MAX_HEADER_BYTES >> 20} MiB together.")
    for name in names:
        for tensor in read_header(directory / name):
            if tensor.name in tensors:
                raise _bad_index(f"Tensor {tensor.name} is in {tensors[tensor.name].file} and in {name}.")
            tensors[tensor.name] = tensor
    if not (directory / SINGLE).exists():
        listed = _weight_map(directory)
        wrong = sorted(listed.keys() ^ tensors.keys()) or [
            name for name in tensors if tensors[name].file != listed[name]
        ]
        if wrong:
            raise _bad_index(f"{INDEX} and the files disagree about tensor {_shown(wrong[0])}.")
    return tensors


def header_bytes(path: Path) -> int:
    """Return how long a safetensors file says that its header is; 0 where it cannot be that long."""
    with path.open("rb") as stream:
        start = stream.read(8)
    length = int.from_bytes(start, "little") if len(start) == 8 else 0
    return length if length <= path.stat().st_size - 8 else 0


def read_header(path: Path) -> list[Tensor]:
    """Read and check the header of one safetensors file; the weights themselves are not read."""
    file_bytes = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(32)
        for magic, what in DISGUISES:
            if start.startswith(magic) and start[8:9] != b"{":  # a header's length may spell a pickle's first bytes
                raise UnsafeSource(
                    f"{path.name} is {what}, not safetensors.", hint=unsupported_files.CONVERT, module=path.name
                )
        header_bytes = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
            raise UnsafeSource(
                f"{path.name} is not a safetensors file: its header length is impossible.", module=path.name
            )
        stream.seek(8)
        header = parse_object(stream.read(header_bytes), f"the header of {path.name}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnsafeSource(f"The metadata of {path.name} is not a map of strings.", module=path.name)
    data = 8 + header_bytes
    spans = sorted((_entry(name, entry, path.name, data) for name, entry in header.items()), key=lambda span: span[0])
    position = 0
    for begin, end, tensor in spans:
        if begin != position:
            raise UnsafeSource(f"The tensors of {path.name} overlap or leave a gap at {tensor.name}.", module=path.name)
        position = end
    if 8 + header_bytes + position != file_bytes:
        raise UnsafeSource(
            f"{path.name} has {file_bytes} bytes where its header tells {8 + header_bytes + position}.",
            module=path.name,
        )
    return [tensor for _, _, tensor in spans]


def _entry(name: str, entry: object, file: str, data: int) -> tuple[int, int, Tensor]:
    if not NAME.fullmatch(name) or ".." in name:
        raise UnsafeSource(f"{file} has a tensor with an unsafe name.", module=file)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UnsafeSource(f"Tensor {name} of {file} is not described by dtype, shape and data_offsets.", module=name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise UnsafeSource(
            f"Tensor {name} of {file} has a dtype that is not allowed.",
            hint=f"Allowed: {', '.join(SIZES)}.",
            module=name,
        )
    if not _sizes(shape, at_least=1) or len(shape) > MAX_DIMENSIONS:
        raise UnsafeSource(f"Tensor {name} of {file} has an impossible or empty shape.", module=name)
    if not _sizes(offsets, at_least=0) or len(offsets) != 2:
        raise UnsafeSource(f"Tensor {name} of {file} has impossible offsets.", module=name)
    tensor = Tensor(name, dtype, tuple(shape), file, data + offsets[0])
    if offsets[1] - offsets[0] != tensor.bytes:
        raise UnsafeSource(f"Tensor {name} of {file} has a shape that does not match its bytes.", module=name)
    return offsets[0], offsets[1], tensor


def _sizes(value: object, *, at_least: int) -> bool:
    """Tell whether a value is a list of whole numbers, none of them beyond what a file can hold."""
    return isinstance(value, list) and all(type(item) is int and at_least <= item < 2**48 for item in value)


def _weight_map(directory: Path) -> dict[str, str]:
    try:
        index = read_object(directory / INDEX, max_bytes=MAX_INDEX_BYTES)
    except UnsafeSource as error:
        raise _bad_index(error.message, error.hint) from None
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_index(f"{INDEX} has no weight_map.")
    if not all(isinstance(file, str) and SHARD.fullmatch(file) for file in weight_map.values()):
        raise _bad_index(f"{INDEX} names something that is not a plain *.safetensors file name.")
    if not isinstance(index.get("metadata"), dict):  # required, though its content is not read
        raise _bad_index(f"{INDEX} has no object `metadata`, without which stock transformers does not load the model.")
    return weight_map


def _bad_index(why: str, hint: str = "") -> UnsafeSource:
    return UnsafeSource(why, hint=f"{hint} {SAVE_AGAIN}".strip(), module=INDEX)


def _shown(name: str) -> str:
    """Return a name from a stranger's file in a form that is safe to print."""
    return name if NAME.fullmatch(name) else "with an unsafe name"
