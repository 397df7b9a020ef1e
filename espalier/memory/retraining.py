"""What a retraining takes, from its spec and the shapes of the model: memory, steps, and the trials of its rate.

Plans, worker classes and the limits of a running job share this arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps import Retrain

TRAINED_BYTES: Final = 20
"""Of a number that moves: value, gradient, AdamW's two moments and the best value so far, all float32. Beside a GPU the
best lies on the host, and AdamW takes as much for a moment (torch: about the size of the parameters more)."""
MASK_BYTES: Final = 1
"""Of a weight that moves: whether it is kept."""
STATE_BYTES: Final = 16
"""Of a number that moves, on the host beside a GPU: value, best and moments, while a checkpoint is written."""
MOST_TRIALS: Final = 5
TRIAL_SHARE: Final = 0.1
"""Length of a trial as a share of the training: all of them together are at most half of it."""
LEAST_STEPS: Final = 4
"""Shorter trials tell nothing."""


@dataclass(frozen=True)
class Shapes:
    """What of a model decides the memory of its retraining."""

    parameters: int
    """Tied ones once."""
    edges: int
    """Inputs and outputs of all matrices inside the blocks: one rank of adapters on every one of them."""
    vocabulary: int
    width: int
    """Of a hidden state."""


def trained(retrain: Retrain, shapes: Shapes) -> int:
    """Return how many numbers move, at most; norms and biases are next to nothing."""
    if retrain.method == "full":
        return shapes.parameters
    found = retrain.rank * shapes.edges if retrain.adapter else 0
    if "head" in retrain.trainable:
        found += retrain.rank * (shapes.vocabulary + shapes.width)
    if "embeddings" in retrain.trainable:
        found += shapes.vocabulary * shapes.width
    return found


def memory_bytes(retrain: Retrain, shapes: Shapes, *, itemsize: int) -> int:
    """Return the bytes that stay where a retraining computes, activations apart; `itemsize`: of the compute dtype.

    The members of a soup are trained one after the other, and take no more than one of them.
    """
    model = shapes.parameters * itemsize
    beside = shapes.parameters * MASK_BYTES if retrain.method == "full" else model
    teacher = 0 if retrain.loss == "cross_entropy" else model
    return beside + teacher + TRAINED_BYTES * trained(retrain, shapes)


def trials(steps: int) -> tuple[int, int]:
    """Return how many trials of a learning rate go before so many steps, at most, and the steps of one."""
    length = max(LEAST_STEPS, round(TRIAL_SHARE * steps))
    return min(MOST_TRIALS, steps // (2 * length)), length


def steps(spec: CompressionSpec) -> int:
    """Return the optimizer steps of all cycles and members, trials of a rate at most; members share their trials."""
    retrain = spec.retrain
    if retrain is None:
        return 0
    cycles = spec.cycles
    turns = [retrain.steps] if cycles is None else [cycles.steps(n + 1, retrain.steps) for n in range(cycles.count)]
    searches = retrain.learning_rate == "auto" and retrain.rate_factor is None
    searched = sum(count * length for count, length in map(trials, turns)) if searches else 0
    return retrain.steps * (spec.soup.members if spec.soup else 1) + searched
