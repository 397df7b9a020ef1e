"""Hidden states between two blocks: in memory, or in a file of the workspace where memory is short."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path

import torch


class _File:
    """A file without a name, gone with its last reference."""

    def __init__(self, folder: Path) -> None:
        self.descriptor, name = tempfile.mkstemp(dir=folder)
        Path(name).unlink()

    def __del__(self) -> None:
        os.close(self.descriptor)


class States:
    """Tensors in the order in which they were put; written once, read any number of times, then dropped as a whole."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where a file without a name holds them; None keeps them in memory."""
        self._kept: list[torch.Tensor | None] = []
        self._file: _File | None = None
        self._places: list[tuple[int, torch.Size, torch.dtype]] = []
        self._end = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _File(folder)

    def put(self, tensor: torch.Tensor) -> None:
        """Keep one more tensor; its bits come back."""
        tensor = tensor.to("cpu").contiguous()
        if self._file is None:
            self._kept.append(tensor)
            return
        view = tensor.view(torch.uint8).numpy().data.cast("B")
        self._places.append((self._end, tensor.shape, tensor.dtype))
        self._end += len(view)
        while len(view):
            view = view[os.write(self._file.descriptor, view) :]

    def get(self, index: int) -> torch.Tensor:
        """The tensor that was put as the `index`-th."""
        if self._file is None:
            kept = self._kept[index]
            assert kept is not None, "these states have been let go"
            return kept
        offset, shape, dtype = self._places[index]
        tensor = torch.empty(shape, dtype=dtype)
        view = tensor.view(torch.uint8).numpy().data.cast("B")
        while len(view):
            count = os.preadv(self._file.descriptor, [view], offset)
            assert count > 0, "the file of hidden states is shorter than what was written"
            view, offset = view[count:], offset + count
        return tensor

    def drop(self, index: int) -> None:
        """Let one tensor go; a file goes as a whole."""
        if self._file is None:
            self._kept[index] = None

    def fork(self) -> States:
        """The same tensors, to be dropped by themselves."""
        other = copy.copy(self)
        other._kept = list(self._kept)
        return other
