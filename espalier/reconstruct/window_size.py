"""What a window needs in memory, and the largest kind of window that fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from espalier.model.layout import Block, Matrix

Kind = Literal["block", "submodule", "matrix"]

BYTES_PER_TRAINED: Final = 16
"""Float32 value, gradient and the two moments of AdamW."""
BYTES_PER_KEPT: Final = 12
"""Copies of the values on the host: as they began, the best, the current ones."""
SHARE: Final = 0.8
"""How much of the memory a window may take: kernels, allocator and the rest of the process need some too."""


@dataclass(frozen=True)
class Room:
    """Memory of the device and of the host in bytes; on a CPU the two are one."""

    device: int
    host: int
    shared: bool

    def holds(self, *, device: int, host: int) -> bool:
        """Tell whether so many bytes fit."""
        if self.shared:
            return device + host <= SHARE * min(self.device, self.host)
        return device <= SHARE * self.device and host <= SHARE * self.host


@dataclass(frozen=True)
class Load:
    """What else a fit holds."""

    tokens_per_batch: int
    itemsize: int
    """Bytes of one activation."""
    streams_bytes: int
    """Hidden states of all windows, everything that is kept of them at once; on the host."""


def largest_fitting(blocks: Sequence[Block], room: Room, load: Load) -> Kind:
    """The first of block, submodule, matrix whose largest window fits; `matrix` where nothing does.

    Quality is flat from the submodule on, and a single matrix is consistently worse (arXiv 2510.14444).
    """
    kinds: tuple[Kind, ...] = ("block", "submodule")
    for kind in kinds:
        needs = [needed(window, block, load) for block in blocks for window in _windows(block, kind)]
        if all(room.holds(device=device, host=host) for device, host in needs):
            return kind
    return "matrix"


def needed(window: Iterable[Matrix], block: Block, load: Load) -> tuple[int, int]:
    """Bytes on the device and on the host while some matrices of a block are fitted."""
    matrices = list(window)
    trained = sum(_numel(matrix) for matrix in matrices)
    # The dense block stands beside the fitted one, in the compute dtype; the fitted one is float32.
    resident = sum(_numel(matrix) for matrix in block.matrices) * (load.itemsize + 4) - 4 * trained
    # Autograd keeps what every map reads, and what the nonlinearity behind it reads.
    activations = sum(sum(matrix.shape) for matrix in matrices) * load.tokens_per_batch * load.itemsize
    return BYTES_PER_TRAINED * trained + resident + activations, BYTES_PER_KEPT * trained + load.streams_bytes


def _windows(block: Block, kind: Kind) -> list[list[Matrix]]:
    if kind == "block":
        return [list(block.matrices)]
    first = block.matrices[0].local.split(".")[0]  # the token mixer
    attention = [matrix for matrix in block.matrices if matrix.local.split(".")[0] == first]
    return [attention, [matrix for matrix in block.matrices if matrix not in attention]]


def _numel(matrix: Matrix) -> int:
    return matrix.shape[0] * matrix.shape[1]
