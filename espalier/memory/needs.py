"""What a job cannot do without: bytes, what takes them, and the field of the request that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Need(NamedTuple):
    """Memory that one thing takes, however the job keeps to what is there."""

    bytes: int
    what: str
    """Whatever takes them, for people."""
    pointer: str
    """JSON Pointer into the request."""

    @property
    def way_out(self) -> str:
        """What the user can do about it, one sentence."""
        return WAYS_OUT[self.pointer]


WAYS_OUT: Final[Mapping[str, str]] = {
    "/source": "Use compute_dtype bfloat16, shorter windows or a method without Gram matrices, or a larger device.",
    "/spec/calibration/dataset": "Give shorter text.",
    "/spec/retrain": "Train fewer windows at a time (`batch_size`, made up for by `accumulate`) or fewer parameters, "
    "without a teacher (`loss: cross_entropy`) or in bfloat16, or take a larger device.",
    "/spec/reconstruct/window": "Use reconstruct.window `auto`, or a smaller `batch_size`.",
    "/spec/prune": "Choose blocks by `angular` or `block_influence`, which hold one at a time.",
    "/spec/evaluate/divergence": "Leave `divergence` out: perplexity is measured block by block.",
    "/spec/evaluate/tasks": "Leave `tasks` out: perplexity is measured block by block.",
    "/spec/objective/seconds_per_token": "Bound `parameters` or `bytes` instead.",
}
"""Pointer -> what to do where memory does not hold what is asked for there."""
