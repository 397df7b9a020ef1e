"""Memory of training: trained numbers, their gradients and moments, and the activations of a batch."""

from __future__ import annotations

from typing import Final

from espalier.memory.constants import FLOAT_BYTES, OPTIMIZED_BYTES
from espalier.memory.shapes import ModelShape
from espalier.recipe.steps.retrain import Retrain

TRAINED_BYTES: Final = OPTIMIZED_BYTES + FLOAT_BYTES
"""Of a number that moves: what AdamW holds of it, and its best value so far. Beside a GPU the best lies on the host,
and AdamW takes as much there for a moment (torch: about the size of the parameters more)."""
MASK_BYTES: Final = 1
"""Of a weight that moves: whether it is kept."""
CHECKPOINT_BYTES: Final = OPTIMIZED_BYTES
"""Of a number that moves, on the host beside a GPU: value, best and two moments, while a checkpoint is written."""
LOGITS_COPIES: Final = 4
"""Of the logits of a batch, in float32: themselves, their logarithms, and the gradients of both."""
TEACHER_LOGITS_COPIES: Final = 3
"""And beside a teacher: its logits, their logarithms, and what the two are multiplied to."""
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


def resident_bytes(retrain: Retrain, shape: ModelShape, *, itemsize: int) -> int:
    """Return the bytes that stay where a retraining computes, activations apart; `itemsize`: of the compute dtype.

    The members of a soup are trained one after the other, and take no more than one of them.
    """
    model = shape.parameters * itemsize
    beside = shape.parameters * MASK_BYTES if retrain.method == "full" else model
    teacher = 0 if retrain.loss == "cross_entropy" else model
    return beside + teacher + TRAINED_BYTES * trained_numbers(retrain, shape)


def checkpoint_bytes(retrain: Retrain, shape: ModelShape) -> int:
    """Return what the host holds beside a GPU while a checkpoint of a retraining is written."""
    return CHECKPOINT_BYTES * trained_numbers(retrain, shape)


def activation_bytes(shape: ModelShape, *, tokens: int, itemsize: int) -> int:
    """Return about what a batch keeps for its gradients: the inputs and outputs of every linear map."""
    return tokens * itemsize * shape.edges


def recomputes(
    retrain: Retrain, shape: ModelShape, *, windows: int, length: int, itemsize: int, free_bytes: int
) -> bool:
    """Tell whether blocks compute their activations again (gradient checkpointing); it changes no bit of a result."""
    if retrain.gradient_checkpointing != "auto":
        return retrain.gradient_checkpointing
    kept = activation_bytes(shape, tokens=windows * length, itemsize=itemsize)
    return kept > RECOMPUTE_FRACTION * free_bytes


def batches(retrain: Retrain, shape: ModelShape, *, itemsize: int) -> tuple[tuple[int, int], ...]:
    """Return (windows, bytes) of the batch of a recipe, and of its halves down to a single window."""
    length = retrain.sequence_length or shape.default_length
    sizes = [retrain.batch_size]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return tuple((size, batch_bytes(retrain, shape, windows=size, length=length, itemsize=itemsize)) for size in sizes)


def batch_bytes(retrain: Retrain, shape: ModelShape, *, windows: int, length: int, itemsize: int) -> int:
    """Return the least that a batch takes beside what stays: its activations, and its logits with their gradients.

    Where activations may be computed again, only what enters every block is kept, and those of the block at hand.
    """
    tokens = windows * length
    kept = activation_bytes(shape, tokens=tokens, itemsize=itemsize)
    if retrain.gradient_checkpointing is not False:
        largest = max((sum(each.edges for each in block.maps) for block in shape.kinds), default=0)
        kept = min(kept, tokens * itemsize * (shape.num_blocks * shape.width + largest))
    copies = LOGITS_COPIES + TEACHER_LOGITS_COPIES * (retrain.loss != "cross_entropy")
    return kept + copies * FLOAT_BYTES * shape.vocabulary * tokens
