"""Decide before any work how a job keeps to the memory that is there.

Worker classes, plans, refusals and the job itself ask here, so that none of them promises what another one refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from espalier.memory.constants import Device
from espalier.memory.estimate import MemoryEstimate
from espalier.memory.needs import Need
from espalier.recipe.spec import CompressionSpec

FREE_FRACTION: Final = 0.9
"""Of free memory, what a job plans with: kernels, fragments and whatever nobody counts take the rest."""


@dataclass(frozen=True)
class Decision:
    """How a job keeps to a number of bytes where it computes."""

    by_blocks: bool
    """Whether a perplexity is measured with one block in memory at a time; the whole model is never loaded then."""
    micro_batch: int | None
    """Windows of a retraining that go through the model at once; None: all that one rank has of a batch."""
    states_on_device: bool
    """Whether a GPU holds all hidden states beside the work on them."""
    lacking: tuple[Need, ...]
    """What does not fit even so, the largest first."""


def usable_bytes(free: float) -> float:
    """Return the bytes that a job may plan with, of free ones."""
    return FREE_FRACTION * free


def decide(
    needed: MemoryEstimate, spec: CompressionSpec, *, device: Device, budget: float, halvings: int = 0
) -> Decision:
    """Decide how a job keeps to `budget` bytes where it computes; on a CPU its libraries are among them.

    `halvings`: how often memory ran out in its retraining, each of which halves the batch that goes through at once.
    On a GPU a batch that does not fit goes through in parts from the start; on a CPU the recipe's batch stays whole.
    """
    micro_batch = batch = None
    if spec.retrain is not None:
        sizes = needed.training_batches[halvings:] or needed.training_batches[-1:]
        left = budget - needed.training
        windows, batch = next((size for size in sizes if device == "cpu" or size[1] <= left), sizes[-1])
        micro_batch = windows if windows < needed.training_batches[0][0] else None
    if device == "cpu":
        required, whole = needed.required_on_host(spec, device="cpu", batch=batch), needed.min_on_host("cpu")
    else:
        required, whole = needed.required_on_device(spec, batch=batch), 0
    lacking = sorted((need for need in required if need.bytes > budget), reverse=True)
    by_blocks = whole + needed.scored > budget
    walking = [phase for phase in ("pruning", "reconstructing") if phase == "pruning" or spec.reconstruct is not None]
    beside = max(
        needed.peak(phase, spec, device="cuda", by_blocks=by_blocks, states_on_device=True) for phase in walking
    )
    return Decision(by_blocks, micro_batch, device == "cuda" and beside <= budget, tuple(lacking))
