"""Writing safetensors files tensor by tensor: sharded, in the order given, the same bytes every time.

Every byte is hashed on its way to the file: nobody has to read it again to know its sha256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from espalier.model import masks
from espalier.model.tensor_file import DTYPE_NAMES
from espalier.model.weights import INDEX, MASK_PREFIX
from espalier.progress import count_step, counted

SHARD_BYTES: Final = 4 * 2**30


@dataclass(frozen=True)
class TensorEntry:
    """One tensor to be written; it is read when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Size of the data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_model(folder: Path, entries: Sequence[TensorEntry]) -> dict[Path, str]:
    """Write `model.safetensors`, or shards with an index when it would be larger than SHARD_BYTES; path -> sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[TensorEntry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(item.nbytes for item in shards[-1]) + entry.nbytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        return {folder / "model.safetensors": write_file(folder / "model.safetensors", entries)}
    paths = [folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    digests = {path: write_file(path, shard) for path, shard in zip(paths, shards, strict=True)}
    mapping = {entry.name: path.name for path, shard in zip(paths, shards, strict=True) for entry in shard}
    total = sum(entry.nbytes for entry in entries)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(mapping.items()))}
    text = (json.dumps(index, indent=2) + "\n").encode()
    (folder / INDEX).write_bytes(text)
    return {**digests, folder / INDEX: hashlib.sha256(text).hexdigest()}


def write_file(path: Path, entries: Sequence[TensorEntry], *, metadata: dict[str, str] | None = None) -> str:
    """Write one safetensors file without holding more than one tensor, and return its sha256."""
    header: dict[str, object] = {"__metadata__": metadata or {"format": "pt"}}
    offset = 0
    for entry in entries:
        header[entry.name] = {
            "dtype": DTYPE_NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.nbytes],
        }
        offset += entry.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    digest = hashlib.sha256()
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as stream:
        for chunk in (len(text).to_bytes(8, "little"), text):
            stream.write(chunk)
            digest.update(chunk)
        for entry in counted(entries):
            data = _raw(entry)
            stream.write(data)
            digest.update(data)
    temporary.replace(path)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write tensors that are at hand, wide elements first and then by name, and return the sha256 of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_file(path, [_at_hand(name, tensor) for name, tensor in _in_order(tensors).items()])


def save_overlay(path: Path, tensors: Mapping[str, torch.Tensor], masks_by_module: Mapping[str, torch.Tensor]) -> str:
    """Write one overlay: changed tensors, and boolean masks (O, I) by module name; return the sha256 of the file."""
    return save_tensors(path, overlay_of(tensors, masks_by_module))


def overlay_of(
    tensors: Mapping[str, torch.Tensor], masks_by_module: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what an overlay holds, on the host and in the order of its file."""
    packed = {MASK_PREFIX + name: masks.pack(mask_OI) for name, mask_OI in masks_by_module.items()}
    return _in_order({**{name: tensor.detach().cpu() for name, tensor in tensors.items()}, **packed})


def _in_order(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Wide elements first, so that each tensor is aligned to its width, and then by name."""
    return dict(sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))


def _at_hand(name: str, tensor: torch.Tensor) -> TensorEntry:
    return TensorEntry(name, tensor.dtype, tuple(tensor.shape), tensor.detach)


def _raw(entry: TensorEntry) -> memoryview:
    """Return the bytes of a tensor without a copy of them; they hold the tensor."""
    tensor = entry.read().cpu().contiguous()
    assert tensor.dtype == entry.dtype
    assert tuple(tensor.shape) == entry.shape
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def sha256_of(path: Path) -> tuple[str, int]:
    """Return the sha256 and the size of a file."""
    count_step()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size
