"""Memory of fitting a window, and the largest kind of window that a memory budget holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from espalier.memory.constants import FLOAT_BYTES, OPTIMIZED_BYTES
from espalier.memory.shapes import BlockShape, MapShape
from espalier.recipe.steps.reconstruct import WindowKind

SNAPSHOT_BYTES: Final = 3 * FLOAT_BYTES
"""Of a number that moves, on the host: as it began, the best so far, and as it stands."""
USABLE_FRACTION: Final = 0.8
"""Of a memory budget, for a window: kernels, allocator and the rest of the process need some too."""
STREAMS: Final = 4
"""Of the hidden states of all windows, what reconstruction keeps: entering and leaving, for student and teacher."""


@dataclass(frozen=True)
class MemoryBudget:
    """Memory of the device and of the host in bytes; on a CPU the two are one."""

    device: int
    host: int
    shared: bool

    def holds(self, *, device: int, host: int) -> bool:
        """Tell whether a window of so many bytes fits."""
        if self.shared:
            return device + host <= USABLE_FRACTION * min(self.device, self.host)
        return device <= USABLE_FRACTION * self.device and host <= USABLE_FRACTION * self.host


@dataclass(frozen=True)
class FitBatch:
    """The batch that goes through a window."""

    tokens: int
    """At once."""
    itemsize: int
    """Bytes of one activation."""
    hidden_states: int
    """Bytes of the hidden states of all windows, once."""
    held_tokens: int = 0
    """Tokens of all windows whose activations around a single matrix are held; 0 where they lie in a file."""


def window_bytes(window: Iterable[MapShape], block: BlockShape, batch: FitBatch) -> tuple[int, int]:
    """Return the bytes on the device and on the host while some maps of a block are fitted."""
    maps = list(window)
    trained = sum(each.weights for each in maps)
    # The dense block stands beside the fitted one, in the compute dtype; the fitted one is float32.
    resident = block.weights * (batch.itemsize + FLOAT_BYTES) - FLOAT_BYTES * trained
    # Autograd keeps the input of every linear layer and of the nonlinearity behind it.
    activations = batch.tokens * batch.itemsize * sum(each.edges for each in maps)
    device = OPTIMIZED_BYTES * trained + resident + activations
    # A matrix by itself reads and gives what is no hidden state; the squares of its outputs are taken in float32.
    alone = maps if len(maps) == 1 and len(block.maps) > 1 else []
    around = sum(batch.held_tokens * (batch.itemsize * each.edges + FLOAT_BYTES * each.outputs) for each in alone)
    return device, SNAPSHOT_BYTES * trained + STREAMS * batch.hidden_states + around


def largest_window(kinds: Sequence[BlockShape], budget: MemoryBudget, batch: FitBatch) -> WindowKind:
    """Return the first of block, submodule, matrix whose largest window fits; `matrix` where nothing does.

    Quality is flat from the submodule on, and a single matrix is consistently worse (arXiv 2510.14444).
    """
    choices: tuple[WindowKind, ...] = ("block", "submodule")
    for kind in choices:
        needs = [window_bytes(window, block, batch) for block in kinds for window in windows_of(block, kind)]
        if all(budget.holds(device=device, host=host) for device, host in needs):
            return kind
    return "matrix"


def windows_of(block: BlockShape, kind: WindowKind) -> list[tuple[MapShape, ...]]:
    """Cut a block into windows."""
    if kind == "block":
        return [block.maps]
    if kind == "matrix":
        return [(each,) for each in block.maps]
    first = block.maps[0].name.split(".")[0]  # the token mixer
    mixer = tuple(each for each in block.maps if each.name.split(".")[0] == first)
    return [mixer, tuple(each for each in block.maps if each not in mixer)]
