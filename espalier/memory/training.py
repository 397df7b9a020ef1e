"""Memory of training: trained numbers, their gradients and moments, and the activations of a batch."""

from __future__ import annotations

from typing import Final

from espalier.memory.constants import FLOAT_BYTES, OPTIMIZED_BYTES, Device
from espalier.memory.shapes import ModelShape
from espalier.recipe.steps.retrain import Retrain

TRAINED_BYTES: Final = OPTIMIZED_BYTES + FLOAT_BYTES
"""Of a number that moves: what AdamW holds of it, and its best value so far. Beside a GPU the best lies on the host."""
MASK_BYTES: Final = 1
"""Of a weight that moves: whether it is kept."""
MASKS_PER_BYTE: Final = 8
"""Of a weight below an adapter: whether it is kept, a bit."""
BLOCKS_AT_HAND: Final = 2
"""Blocks that a rank of several holds whole: the one that computes, and the next one on its way."""
CHECKPOINT_BYTES: Final = OPTIMIZED_BYTES
"""Of a number that moves, on the host beside a GPU: value, best and two moments, while a checkpoint is written."""
LOGITS_COPIES: Final = 4
"""Of the logits of a batch, in float32: themselves, their logarithms, and the gradients of both."""
TEACHER_LOGITS_COPIES: Final = 3
"""And beside a teacher: its logits, their logarithms, and what the two are multiplied to."""
CHUNK_BYTES: Final = 128 * 2**20
"""Of logits as float32: on a GPU those of a batch that are more are made in chunks of so many, in forward and backward
pass alike. All that is made of a chunk stays below 1 GB: `CHUNK_COPIES` of it."""
CHUNK_COPIES: Final = 7
"""Of the logits of a chunk, as float32: themselves, their logarithms and gradients, and the teacher's."""
RECOMPUTE_FRACTION: Final = 0.25
"""Of free memory: activations that take more are computed again rather than kept (`gradient_checkpointing: auto`)."""


def trained_numbers(retrain: Retrain, shape: ModelShape) -> int:
    """Return how many numbers move, at most; norms and biases are next to nothing."""
    if retrain.method == "full":
        return shape.parameters
    numbers = retrain.rank * shape.edges if retrain.adapter else 0
    if "head" in retrain.trainable:
        numbers += retrain.rank * (shape.vocabulary + shape.width)
    if "embeddings" in retrain.trainable:
        numbers += shape.vocabulary * shape.width
    return numbers


def resident_bytes(retrain: Retrain, shape: ModelShape, *, itemsize: int, ranks: int = 1) -> int:
    """Return the bytes that stay where a retraining computes, activations apart; `itemsize`: of the compute dtype.

    The members of a soup are trained one after the other, and take no more than one of them. Of several `ranks`, each
    holds its rows of everything, and what it has gathered.
    """
    model = shape.parameters * itemsize
    beside = shape.parameters * MASK_BYTES if retrain.method == "full" else model
    if retrain.adapter is not None:
        beside += shape.weights // MASKS_PER_BYTE
    teacher = 0 if retrain.loss == "cross_entropy" else model
    whole = beside + teacher + TRAINED_BYTES * trained_numbers(retrain, shape)
    return whole if ranks == 1 else -(-whole // ranks) + gathered_bytes(retrain, shape, itemsize=itemsize)


def gathered_bytes(retrain: Retrain, shape: ModelShape, *, itemsize: int) -> int:
    """Return what a rank of several holds whole in a step: blocks at hand, what lies outside them, their gradients.

    What moves is gathered in float32. A gradient lies there as it was computed, of a block once more as it is sent.
    """
    at_hand = _parameters_at_hand(shape)
    frozen = itemsize * at_hand
    teacher = 0 if retrain.loss == "cross_entropy" else frozen
    if retrain.method == "full":
        return teacher + 2 * FLOAT_BYTES * at_hand
    tables = shape.vocabulary * shape.width if "embeddings" in retrain.trainable else 0
    return teacher + frozen + 2 * FLOAT_BYTES * tables


def _parameters_at_hand(shape: ModelShape) -> int:
    return BLOCKS_AT_HAND * max((block.parameters for block in shape.kinds), default=0) + shape.outer


def checkpoint_bytes(retrain: Retrain, shape: ModelShape, *, ranks: int = 1) -> int:
    """Return what the host holds beside a GPU while a checkpoint is written: of several ranks, rows and the whole."""
    return CHECKPOINT_BYTES * trained_numbers(retrain, shape) * (1 if ranks == 1 else 2)


def activation_bytes(shape: ModelShape, *, tokens: int, itemsize: int) -> int:
    """Return about what a batch keeps for its gradients: the inputs and outputs of every linear map."""
    return tokens * itemsize * shape.edges


def recomputes(
    retrain: Retrain,
    shape: ModelShape,
    *,
    windows: int,
    length: int,
    itemsize: int,
    free_bytes: int,
    ranks: int = 1,
) -> bool:
    """Tell whether blocks compute their activations again (gradient checkpointing); it changes no bit of a result.

    `windows`: of one rank. Beside activations a backward pass needs the copies that autocast has made of what moves,
    which several ranks have of all rows.
    """
    if retrain.gradient_checkpointing != "auto":
        return retrain.gradient_checkpointing
    kept = activation_bytes(shape, tokens=windows * length, itemsize=itemsize)
    if ranks > 1 and itemsize < FLOAT_BYTES:
        kept += itemsize * trained_numbers(retrain, shape)
    return kept > RECOMPUTE_FRACTION * free_bytes


def chunk_tokens(vocabulary: int) -> int:
    """Return how many tokens a chunk of logits has."""
    return max(1, CHUNK_BYTES // (FLOAT_BYTES * vocabulary))


def in_chunks(tokens: int, vocabulary: int) -> bool:
    """Tell whether the logits of a batch are too many to be made at once on a GPU."""
    return tokens * vocabulary * FLOAT_BYTES > CHUNK_BYTES


def batches(
    retrain: Retrain, shape: ModelShape, *, device: Device, itemsize: int, ranks: int = 1
) -> tuple[tuple[int, int], ...]:
    """Return (windows, bytes) of what one rank has of a recipe's batch, and of its halves down to a single window."""
    length = retrain.sequence_length or shape.default_length
    sizes = [-(-retrain.batch_size // ranks)]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return tuple(
        (size, batch_bytes(retrain, shape, windows=size, length=length, device=device, itemsize=itemsize, ranks=ranks))
        for size in sizes
    )


def batch_bytes(
    retrain: Retrain, shape: ModelShape, *, windows: int, length: int, device: Device, itemsize: int, ranks: int = 1
) -> int:
    """Return the least that a step takes beside what stays: activations, and logits with their gradients.

    Where activations may be computed again, only what enters every block is kept, and those of the block at hand. On a
    GPU autocast keeps a copy of what moves in the compute dtype: of all of it, or of several ranks, where activations
    may be computed again, of the blocks at hand. AdamW's fused kernel takes nothing beside its state.
    """
    tokens = windows * length
    kept = activation_bytes(shape, tokens=tokens, itemsize=itemsize)
    if retrain.gradient_checkpointing is not False:
        largest = max((sum(each.edges for each in block.maps) for block in shape.kinds), default=0)
        kept = min(kept, tokens * itemsize * (shape.num_blocks * shape.width + largest))
    copies = LOGITS_COPIES + TEACHER_LOGITS_COPIES * (retrain.loss != "cross_entropy")
    logits = FLOAT_BYTES * shape.vocabulary * tokens
    if device == "cpu":
        return kept + copies * logits
    if in_chunks(tokens, shape.vocabulary):  # beside them, what enters the head and its gradient
        logits, kept = CHUNK_BYTES, kept + 2 * tokens * shape.width * itemsize
        copies = CHUNK_COPIES
    moving = trained_numbers(retrain, shape)
    if ranks > 1 and retrain.gradient_checkpointing is not False:
        moving = min(moving, _parameters_at_hand(shape))
    return kept + copies * logits + itemsize * moving
