"""A model's tensors by name: the source's safetensors files with the files of finished blocks laid over them.

An overlay is one safetensors file that holds changed tensors under their own names, and masks under `mask:<module>`:
uint8, one row per output, eight inputs per byte, lowest bit first, 1 = keep.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, KeysView, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from espalier.errors import UnsafeFileError
from espalier.families import STACKED
from espalier.model.masks import unpack
from espalier.model.numerics import NAMES
from espalier.model.tensor_file import DTYPES, PendingFile, TensorFile
from espalier.probe.headers import weight_files

INDEX: Final = "model.safetensors.index.json"
MASK_PREFIX: Final = "mask:"


@dataclass(frozen=True)
class Slice:
    """A map of one expert inside a stacked tensor (E, O, I) of the files."""

    home: str
    expert: int
    begin: int
    end: int
    """Rows of the expert's part."""


class Weights:
    """A read-only view by tensor name; the newest overlay wins. Tensors are read when asked for, never all at once.

    The maps inside stacked experts have names of their own (`experts.3.up_proj.weight`) and are read and overlaid by
    them; a stacked tensor is whatever its maps are.
    """

    def __init__(self, model_dir: Path, overlays: Sequence[Path] = (), *, dtype: torch.dtype | None = None) -> None:
        """`dtype`: what floating tensors are cast to when read; None leaves every tensor as it is stored."""
        self.model_dir = model_dir
        self.overlays = tuple(overlays)
        self.cast = dtype
        self._files: dict[str, TensorFile | PendingFile] = {}
        self._masks: dict[str, TensorFile | PendingFile] = {}
        for path in source_files(model_dir):
            with _readable(path.name):
                file = TensorFile(path)
            self._files.update(dict.fromkeys(file, file))
        self.names: list[str] = list(self._files)
        """Tensor names in the source's order."""
        self.slices: dict[str, Slice] = {
            name: part for tensor in self.names for name, part in _slices(tensor, self._files[tensor])
        }
        """Maps of stacked experts by their own names."""
        for path in overlays:
            self._lay_over(TensorFile(path))

    def _lay_over(self, file: TensorFile | PendingFile) -> None:
        for name in file:
            if name.startswith(MASK_PREFIX):
                self._masks[name.removeprefix(MASK_PREFIX)] = file
            else:
                assert name in self, f"an overlay brings the unknown tensor {name}"
                self._files[name] = file

    def with_overlay(self, path: Path, file: PendingFile | None = None) -> Weights:
        """Return the same weights with one more file on top; `file`: what stands for it while it is written."""
        other = copy.copy(self)
        other.overlays = (*self.overlays, path)
        other._files, other._masks = dict(self._files), dict(self._masks)
        other._lay_over(file or TensorFile(path))
        return other

    def __contains__(self, name: str) -> bool:
        return name in self._files or name in self.slices

    def get(self, name: str) -> torch.Tensor:
        """Read one tensor, cast if these weights have a dtype."""
        if name in self._files:
            tensor = self._files[name].read(name)
            for part_name, part in self._changed(name):
                tensor[part.expert, part.begin : part.end] = self._files[part_name].read(part_name)
        else:
            part = self.slices[name]
            tensor = self._files[part.home].read_rows(part.home, part.expert, part.begin, part.end)
        return tensor.to(self.cast) if self.cast and tensor.is_floating_point() else tensor

    def expect(self, name: str) -> None:
        """Tell the kernel that a tensor is read soon; of a stacked one, all of it."""
        home = name if name in self._files else self.home(name)
        self._files[home].expect(home)

    def require_whole(self) -> None:
        """Raise UnsafeFileError where a file of the source ends too early."""
        for file in {id(file): file for file in self._files.values()}.values():
            if isinstance(file, TensorFile):
                file.require_whole()

    def origin(self, name: str) -> tuple[TensorFile | PendingFile, str, torch.dtype | None]:
        """Return what tells a tensor from every other one: its open file, its name, and what it is cast to."""
        return self._files[name if name in self._files else self.home(name)], name, self.cast

    def same(self, one: str, other: str) -> bool:
        """Tell whether two tensors of the files are equal bit for bit."""
        first, second = self._files[one], self._files[other]
        assert isinstance(first, TensorFile)
        assert isinstance(second, TensorFile)
        if (first.dtype(one), first.shape(one)) != (second.dtype(other), second.shape(other)):
            return False
        return all(a == b for a, b in zip(first.chunks(one), second.chunks(other), strict=True))

    def _changed(self, home: str) -> Iterator[tuple[str, Slice]]:
        """The maps of a stacked tensor that an overlay has replaced."""
        if home.rpartition(".")[2] in STACKED:
            yield from ((name, part) for name, part in self.slices.items() if part.home == home and name in self._files)

    def part(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Return what a name stands for in the tensor of its home: all of it, or the map of one expert."""
        part = self.slices.get(name)
        return tensor if part is None else tensor[part.expert, part.begin : part.end]

    def home(self, name: str) -> str:
        """Return the tensor of the files that holds a linear layer: its own, or the one that it is stacked in."""
        return self.slices[name].home if name in self.slices else name

    def stored_dtype(self, name: str) -> str:
        """Return the dtype in the file by its safetensors name (`BF16`)."""
        name = name if name in self._files else self.home(name)
        return self._files[name].dtype(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of the tensors that `get` returns."""
        stored = DTYPES[self.stored_dtype(name)]
        return self.cast if self.cast and stored.is_floating_point else stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape, without reading the tensor."""
        if name in self._files:
            return self._files[name].shape(name)
        part = self.slices[name]
        return part.end - part.begin, self.shape(part.home)[2]

    @property
    def mask_names(self) -> KeysView[str]:
        """Names of the modules that have a mask, in the order in which the masks came."""
        return self._masks.keys()

    def packed_mask(self, module: str) -> torch.Tensor:
        """Read the mask as it is stored: uint8 of shape (O, ceil(I / 8))."""
        return self._masks[module].read(MASK_PREFIX + module)

    def mask(self, module: str, *, num_inputs: int) -> torch.Tensor:
        """Read the mask of a module as a boolean (O, I), True = keep."""
        return unpack(self.packed_mask(module), num_inputs=num_inputs)


def _slices(tensor: str, file: TensorFile | PendingFile) -> Iterator[tuple[str, Slice]]:
    parent, _, leaf = tensor.rpartition(".")
    shape = file.shape(tensor) if leaf in STACKED else ()
    if len(shape) == 3:
        rows = shape[1] // len(STACKED[leaf])
        for expert in range(shape[0]):
            for place, role in enumerate(STACKED[leaf]):
                yield f"{parent}.{expert}.{role}.weight", Slice(tensor, expert, place * rows, (place + 1) * rows)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Name the file that cannot be read in the error."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, FileNotFoundError, EOFError) as error:
        raise UnsafeFileError(
            f"{name} is not a safetensors file that can be read: {type(error).__name__}",
            hint="Bring the file again; `git lfs pull` fetches the file of a pointer.",
            module=name,
        ) from error


def source_files(model_dir: Path) -> list[Path]:
    """List the safetensors files of a model directory, in order: those that stock transformers would read."""
    return [model_dir / name for name in weight_files(model_dir)]


def output_cast(dense: Weights, dtype_name: str | None) -> torch.dtype | None:
    """Return the dtype that tensors are cast to when written; None when the model already is in that dtype.

    A model in that dtype already is left alone tensor by tensor: a few float32 norms inside a bfloat16 model stay.
    """
    if dtype_name is None or NAMES[dtype_name] == main_dtype(dense):
        return None
    return NAMES[dtype_name]


def main_dtype(weights: Weights) -> torch.dtype:
    """Return the dtype that most elements of a model have."""
    counts: dict[torch.dtype, int] = {}
    for name in weights.names:
        dtype = weights.dtype(name)
        counts[dtype] = counts.get(dtype, 0) + torch.Size(weights.shape(name)).numel()
    return max(counts, key=lambda dtype: counts[dtype])
