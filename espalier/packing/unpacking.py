"""Reading a pack: the file that was packed, byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from espalier.packing.codes import mask_of_positions, scatter
from espalier.packing.files import Entry, PackError, RawTensorFile, Words, chunks, entries_of, parse
from espalier.packing.pack import PARTS, SUFFIX, VERSION


class Pack:
    """One packed file."""

    def __init__(self, path: Path) -> None:
        self.file = RawTensorFile(path)
        metadata = self.file.metadata
        if metadata.get("espalier_pack") != VERSION:
            raise PackError(f"{path.name} is no pack of version {VERSION}")
        try:
            self.chunk = int(metadata["chunk"])
            self.codes: dict[str, str] = json.loads(metadata["codes"])
            self.text, self.sha256 = metadata["header"], metadata["sha256"]
        except (KeyError, ValueError):
            raise PackError(f"the metadata of {path.name} are not complete") from None
        if self.chunk < 8 or self.chunk % 8 or not isinstance(self.codes, dict):
            raise PackError(f"the metadata of {path.name} are not those of a pack")
        self.parts = {entry.name: entry for entry in self.file.entries}

    @cached_property
    def entries(self) -> list[Entry]:
        """The tensors of the file that was packed, in the order of their data."""
        where = f"what {self.file.path.name} holds"
        return entries_of(parse(self.text, where=where), where=where)

    def words(self, entry: Entry) -> Iterator[Words]:
        """Decode the elements of one tensor, chunk by chunk."""
        code = self.codes.get(entry.name, "dense")
        if code == "dense":
            whole = self._part(entry.name, entry.dtype, entry.numel)
            return (whole[chunk] for chunk in chunks(entry.numel, self.chunk))
        if code not in PARTS:
            raise PackError(f"{entry.name} has the unknown code {code!r}")
        return self._bitmask(entry) if code == "bitmask" else self._two_of_four(entry)

    def _bitmask(self, entry: Entry) -> Iterator[Words]:
        slices = list(chunks(entry.numel, self.chunk))
        values = self._part(f"{entry.name}.values", entry.dtype)
        mask = self._part(f"{entry.name}.mask", "U8", -(-entry.numel // 8))
        starts = self._part(f"{entry.name}.offsets", "I64", len(slices)).astype(np.int64)
        for index, chunk in enumerate(slices):
            end = starts[index + 1] if index + 1 < len(slices) else len(values)
            bits = mask[chunk.start // 8 : -(-chunk.stop // 8)]
            yield scatter(values[starts[index] : end], bits, chunk.stop - chunk.start)

    def _two_of_four(self, entry: Entry) -> Iterator[Words]:
        values = self._part(f"{entry.name}.values", entry.dtype, entry.numel // 2)
        positions = self._part(f"{entry.name}.positions", "U8", entry.numel // 8)
        for chunk in chunks(entry.numel, self.chunk):
            mask = mask_of_positions(positions[chunk.start // 8 : chunk.stop // 8])
            yield scatter(values[chunk.start // 2 : chunk.stop // 2], mask, chunk.stop - chunk.start)

    def _part(self, name: str, dtype: str, numel: int | None = None) -> Words:
        entry = self.parts.get(name)
        if entry is None or entry.dtype != dtype or (numel is not None and entry.numel != numel):
            raise PackError(f"{self.file.path.name} lacks {name} as {dtype}, or it has another size")
        return self.file.words(entry)


def unpacked_path(path: Path) -> Path:
    """Return the path of the unpacked file: `model.packed.safetensors` -> `model.safetensors`."""
    return path.with_name(path.name.removesuffix(SUFFIX) + ".safetensors")


def unpack_file(source: Path, target: Path) -> None:
    """Write the file that was packed, in chunks; PackError unless its sha256 is the recorded one."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("wb") as stream:
            _unpack(source, stream.write)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def prove_file(source: Path) -> None:
    """Unpack a file to nowhere; PackError unless what it gives back has the recorded sha256."""
    _unpack(source, lambda _: None)


def _unpack(source: Path, write: Callable[[memoryview], object]) -> None:
    pack, digest = Pack(source), hashlib.sha256()
    text = pack.text.encode()
    begin = np.frombuffer(len(text).to_bytes(8, "little") + text, dtype=np.uint8)
    for data in chain([begin], *(pack.words(entry) for entry in pack.entries)):
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        write(raw)
        digest.update(raw)
    if digest.hexdigest() != pack.sha256:
        raise PackError(f"what {source.name} holds is damaged: its sha256 is not the recorded one")


def unpack_folder(folder: Path, output: Path) -> Iterator[Path]:
    """Unpack every packed file of a folder into another or the same one; the other files are copied along.

    Raises PackError where there is none, where one is damaged, and where another file lies in its place.
    """
    packs = sorted(folder.glob(f"*{SUFFIX}"))
    if not packs:
        raise PackError(f"{folder} holds no file that ends in {SUFFIX}")
    if output != folder:
        _copy_others(folder, output)
    for path in packs:
        target = unpacked_path(output / path.name)
        if not target.exists():
            unpack_file(path, target)
        elif RawTensorFile(target).sha256 != Pack(path).sha256:
            raise PackError(f"{target} is there already and is not what {path.name} holds")
        yield target


def _copy_others(folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*")):
        target = output / path.relative_to(folder)
        if path.is_file() and not path.name.endswith(SUFFIX) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
