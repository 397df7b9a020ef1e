"""What a job holds in memory, by the shapes of its model: one arithmetic for plans, for refusals and for the job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from espalier.recipe.spec import CompressionSpec

LIBRARIES_BYTES: Final = 512 * 2**20
"""Of a child before it reads a weight: torch, transformers and a tokenizer. Measured 375 to 430 MiB with a CPU build of
torch; a CUDA build takes up to 300 MiB more."""
WORK_BYTES: Final = 32
"""Scores, their selection, a mask and two float32 copies, per weight of the matrix in work."""
STREAMS: Final = 4
"""What reconstruction keeps of all hidden states at once: entering and leaving, for student and teacher."""
LOGITS_BYTES: Final = 256 * 2**20
"""Most for the logits of one batch that is scored: with large vocabularies they outweigh the model's activations."""
SCORED_WINDOWS: Final = 8
_LOGITS_COPIES: Final = 3
"""As they come, in float32, and their logarithms."""


@dataclass(frozen=True)
class Room:
    """Bytes that the parts of a job take, computed from shapes."""

    process: int
    """What the libraries take before any weight is read."""
    outside: int
    """Embeddings and head in the compute dtype, while a walk starts or ends."""
    block: int
    """The largest block: its weights, its statistics, one batch of activations and the work on one matrix."""
    hidden: int
    """The hidden states of all calibration windows between two blocks."""
    model: int
    """The whole model in the compute dtype."""
    training: int = 0
    """What stays while it is retrained, where that is computed."""
    state: int = 0
    """What the host holds of a retraining on a GPU."""
    text: int = 0
    """What the largest text takes while it is tokenised, before any block is there."""

    @property
    def least(self) -> int:
        """What the smallest walk takes on the host."""
        return self.process + max(self.outside, self.block)

    def on_host(self, spec: CompressionSpec, *, computes: bool) -> Iterator[tuple[int, str]]:
        """Yield what a spec cannot do without on the host, and for what; `computes`: no GPU holds the blocks."""
        least = self.least if computes else self.process + self.outside
        yield self.process + self.text, "tokenising the text"
        yield least, "one block"
        if spec.retrain is not None:
            yield least + (self.training if computes else self.state), "retraining, which holds the whole model"
        if spec.reconstruct is not None:
            yield least + STREAMS * self.hidden, "reconstruction's hidden states"
        if spec.structure or spec.evaluate.divergence or spec.evaluate.tasks or spec.evaluate.latency:
            yield least + self.model, "what is asked for, which holds the whole model"


def working_bytes(maps: Sequence[tuple[str, int, int]], *, gram: bool, tokens: int, itemsize: int) -> int:
    """Return what a block takes beside its weights: activations, statistics, and the matrix in work.

    `maps`: name, outputs and inputs of each; those below one module read one input, and share its Gram matrix.
    """
    activations = tokens * itemsize * max(outputs + inputs for _, outputs, inputs in maps) * 3
    largest = max(outputs * inputs for _, outputs, inputs in maps)
    grams = {(name.rpartition(".")[0], inputs) for name, _, inputs in maps} if gram else set()
    widest = max((inputs for _, inputs in grams), default=0)
    return activations + largest * WORK_BYTES + sum(4 * inputs**2 for _, inputs in grams) + 3 * 4 * widest**2


def logits_bytes(vocabulary: int, length: int, *, windows: int = SCORED_WINDOWS) -> int:
    """Return what the logits of a batch that is scored take, with what is made of them."""
    one = 4 * vocabulary * length
    return _LOGITS_COPIES * max(1, min(windows, LOGITS_BYTES // max(one, 1))) * one
