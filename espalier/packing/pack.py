"""Writing a pack: a safetensors file whose sparse tensors stand as values and places, the rest as it was.

See `docs/packed-format.md` for the layout. Lossless for any file: what is not smaller is left dense.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from espalier.packing.codes import fits_two_of_four, mask_of, positions_of, values_under
from espalier.packing.files import Entry, RawTensorFile, Words, chunks

CHUNK: Final = 2**18
"""Elements per offset, a multiple of eight: the unit in which packs are written and read, 1 MB of float32."""
VERSION: Final = "1"
SUFFIX: Final = ".packed.safetensors"

Code = Literal["dense", "bitmask", "2:4"]
PARTS: Final = {"bitmask": ("offsets", "values", "mask"), "2:4": ("values", "positions")}
"""The parts of a tensor under a code; each part is a tensor of its own, `<name>.<part>`."""


@dataclass(frozen=True)
class _Plan:
    entry: Entry
    code: Code
    counts: list[int]
    """Non-zeros of every chunk."""

    def parts(self) -> dict[str, tuple[str, list[int]]]:
        """Name -> dtype and shape of what is written."""
        entry, half = self.entry, self.entry.numel // 2
        shapes: dict[str, tuple[str, list[int]]] = {
            "offsets": ("I64", [len(self.counts)]),
            "values": (entry.dtype, [half if self.code == "2:4" else sum(self.counts)]),
            "mask": ("U8", [-(-entry.numel // 8)]),
            "positions": ("U8", [entry.numel // 8]),
        }
        if self.code == "dense":
            return {entry.name: (entry.dtype, list(entry.shape))}
        return {f"{entry.name}.{part}": shapes[part] for part in PARTS[self.code]}


def packed_path(path: Path) -> Path:
    """Return the path of the pack: `model.safetensors` -> `model.packed.safetensors`."""
    return path.with_name(path.name.removesuffix(".safetensors") + SUFFIX)


def pack_file(source: Path, target: Path, *, sha256: str | None = None) -> None:
    """Pack one file; memory is bounded by a chunk, and equal files give equal packs.

    `sha256`: of the source, where it is known; None reads it for that.
    """
    file = RawTensorFile(source)
    plans = [_plan(file, entry) for entry in file.entries]
    partial = target.with_name(f"{target.name}.partial")
    with partial.open("wb") as stream:
        offsets = _write_header(stream, file, plans, sha256 or file.sha256)
        for plan in plans:
            _Writer(stream, file.words(plan.entry), offsets).write(plan)
    partial.replace(target)


def _plan(file: RawTensorFile, entry: Entry) -> _Plan:
    words = file.words(entry)
    counts, two_of_four = [], entry.numel % 8 == 0 and bool(entry.shape) and entry.shape[-1] % 4 == 0
    for chunk in chunks(entry.numel, CHUNK):
        counts.append(int(np.count_nonzero(words[chunk])))
        two_of_four = two_of_four and fits_two_of_four(mask_of(words[chunk]))
    sizes: dict[Code, int] = {
        "dense": entry.numel * entry.width,
        "bitmask": sum(counts) * entry.width + -(-entry.numel // 8) + 8 * len(counts),
    }
    if two_of_four:
        sizes["2:4"] = entry.numel // 2 * entry.width + entry.numel // 8
    return _Plan(entry, min(sizes, key=lambda code: sizes[code]), counts)  # of equal sizes the first: dense


def _write_header(stream: IO[bytes], file: RawTensorFile, plans: list[_Plan], sha256: str) -> dict[str, int]:
    """Write the header and return where in the file every part begins."""
    parts = {name: part for plan in plans for name, part in plan.parts().items()}
    assert len(parts) == sum(len(plan.parts()) for plan in plans), "two parts have one name"
    metadata = {
        "espalier_pack": VERSION,
        "chunk": str(CHUNK),
        "codes": json.dumps({plan.entry.name: plan.code for plan in plans if plan.code != "dense"}, sort_keys=True),
        "header": file.text,
        "sha256": sha256,
    }
    header: dict[str, Any] = {"__metadata__": metadata}
    position, begins = 0, {}
    widths = {name: Entry(name, dtype, tuple(shape), 0, 0) for name, (dtype, shape) in parts.items()}
    # Wide elements first, as the format's own writer has it: every part is aligned to its width.
    for name in sorted(parts, key=lambda name: -widths[name].width):
        dtype, shape = parts[name]
        begins[name], end = position, position + widths[name].numel * widths[name].width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    stream.truncate(8 + len(text) + position)
    return {name: 8 + len(text) + begin for name, begin in begins.items()}


class _Writer:
    def __init__(self, stream: IO[bytes], words: Words, begins: dict[str, int]) -> None:
        self.stream, self.words = stream, words
        self.cursors = dict(begins)

    def write(self, plan: _Plan) -> None:
        name = plan.entry.name
        for chunk in chunks(plan.entry.numel, CHUNK):
            words = self.words[chunk]
            if plan.code == "dense":
                self._put(name, words)
                continue
            mask = mask_of(words)
            if plan.code == "2:4":
                positions, mask = positions_of(mask)
                self._put(f"{name}.positions", positions)
            else:
                self._put(f"{name}.mask", mask)
            self._put(f"{name}.values", values_under(words, mask))
        if plan.code == "bitmask":
            self._put(f"{name}.offsets", np.cumsum([0, *plan.counts[:-1]]).astype("<i8"))

    def _put(self, part: str, data: npt.NDArray[Any]) -> None:
        self.stream.seek(self.cursors[part])
        self.cursors[part] += self.stream.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
