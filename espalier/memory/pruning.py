"""Memory of pruning a block: its weights, its inputs, and the work on one matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from espalier.memory.constants import FLOAT_BYTES, TOKENS_PER_BATCH, Device
from espalier.memory.shapes import BlockShape

ERROR_TOKENS: Final = 4096
"""Calibration tokens that the error of a mask is measured on: two small products, against forwards over all of them."""
MASK_BYTES: Final = 1
"""Of a weight of a block that is pruned: whether it is kept."""
WORK_BYTES: Final = 32
"""Of a weight of the matrix in work: scores, their selection, a mask and two float32 copies."""
ERROR_BYTES: Final = FLOAT_BYTES + 2 * 8
"""Of an output of a token, while an error is measured: the product, and twice in float64."""
BATCH_COPIES: Final = 3
"""Of what enters and leaves the widest map while a batch goes through a block."""
NUM_SHARDS: Final = 8
"""Of the calibration windows: their sums are added up in a binary tree, the same for every number of ranks."""
FACTORS: Final = 6
"""Square float32 matrices made of the widest Gram matrix: an eigendecomposition and its work space.

What matrices that read the same input share counts among them: it is kept until the last of them is done.
"""


def block_bytes(
    block: BlockShape,
    *,
    gram: bool,
    tokens: int,
    length: int,
    itemsize: int,
    stored: int,
    device: Device,
    ranks: int = 1,
) -> int:
    """Return what one block takes where it is computed: weights, statistics, and a batch or the matrix in work.

    `tokens`: of the calibration; `length`: of one window; `itemsize`: of the compute dtype; `stored`: of the dtype that
    is written.
    """
    batch = min(tokens, max(TOKENS_PER_BATCH, length))
    activations = BATCH_COPIES * batch * itemsize * max(each.edges for each in block.maps)
    work = max(each.weights for each in block.maps) * WORK_BYTES
    inputs = [width for _, width in distinct_inputs(block)]
    if gram:
        work += FACTORS * FLOAT_BYTES * max(inputs) ** 2
    else:  # errors come from the sample: the inputs in float32, and the outputs
        sampled = min(tokens, ERROR_TOKENS)
        work += sampled * max(FLOAT_BYTES * each.inputs + ERROR_BYTES * each.outputs for each in block.maps)
    grams = sum(FLOAT_BYTES * each**2 for each in inputs) if gram else 0
    product = FLOAT_BYTES * max(inputs) ** 2 if gram and itemsize < FLOAT_BYTES else 0  # of a batch of narrow inputs
    walking = grams * partial_sums(tokens // length, ranks=ranks) + activations + product
    return block.parameters * _weight_bytes(itemsize, stored, device) + max(walking, grams + work)


def _weight_bytes(itemsize: int, stored: int, device: Device) -> int:
    """Return what a weight of a block takes while the block is pruned.

    On a GPU it stays as its file holds it, beside its copy in the compute dtype if that is another one, and later
    beside its new value and its mask.
    """
    made = stored + MASK_BYTES
    return itemsize + made if device == "cpu" else stored + max(made, itemsize * (itemsize != stored))


def own_windows(windows: int, *, ranks: int) -> int:
    """Return how many of the calibration windows the first rank holds, which has no fewer than another one."""
    per_rank = NUM_SHARDS // ranks
    base, more = divmod(windows, NUM_SHARDS)
    return per_rank * base + min(more, per_rank)


def partial_sums(windows: int, *, ranks: int = 1) -> int:
    """Return how many sums of shards a rank holds at once, the running one included.

    The sums of a binary tree whose sizes differ, of the shards that hold windows; and what comes from another rank.
    """
    return min(windows, NUM_SHARDS // ranks).bit_length() + (ranks > 1 and 1)


def overlapping_bytes(block: BlockShape, *, stored: int, device: Device) -> int:
    """Return what the neighbours of a block take on the host: one that is written, for a GPU one that is read ahead."""
    return block.parameters * (stored + MASK_BYTES + stored * (device == "cuda"))


def sample_bytes(block: BlockShape, *, gram: bool, tokens: int, itemsize: int) -> int:
    """Return what the inputs that errors are measured on take; nothing where a Gram matrix tells the errors."""
    return 0 if gram else min(tokens, ERROR_TOKENS) * itemsize * sum(width for _, width in distinct_inputs(block))


def distinct_inputs(block: BlockShape) -> Iterator[tuple[str, int]]:
    """Yield module and width of every input that maps of a block read.

    Maps of one module with equally many inputs read the same one, but for its last: that reads what the others gave.
    """
    modules: dict[str, list[int]] = {}
    for each in block.maps:
        modules.setdefault(each.name.rpartition(".")[0], []).append(each.inputs)
    for module, widths in modules.items():
        yield from ((module, width) for width in dict.fromkeys(widths[:-1]))
        yield module, widths[-1]
