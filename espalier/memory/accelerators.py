"""Seconds of a job's phases on a kind of GPU, by arithmetic: until finished jobs have taught how fast it really goes.

A phase takes as long as the slower of what it computes and what it moves where the two overlap, and both where they do
not. Nothing here was measured on a GPU: constants are data sheets' times the shares below, and each says its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from espalier.memory import work
from espalier.memory.pruning import ERROR_TOKENS, distinct_inputs
from espalier.memory.shapes import BlockShape, ModelShape
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.prune import PruneStep


@dataclass(frozen=True)
class Accelerator:
    """A kind of GPU by the peaks of its data sheet, without structured sparsity."""

    name: str
    memory_bytes: float
    narrow_flops: float
    """Of products in bfloat16, or in what stands for it where there is none."""
    tf32_flops: float
    float_flops: float
    """In float32: solvers, statistics, errors."""
    link: float
    """Bytes a second between host and GPU, one way."""


H200: Final = Accelerator("H200", 141e9, 989e12, 494e12, 67e12, 64e9)
A100: Final = Accelerator("A100", 80e9, 312e12, 156e12, 19.5e12, 32e9)
ACCELERATORS: Final = (
    H200,
    Accelerator("H100", 80e9, 989e12, 494e12, 67e12, 64e9),
    A100,
    Accelerator("L40S", 48e9, 362e12, 183e12, 91.6e12, 32e9),
    Accelerator("RTX 4090", 24e9, 165e12, 82.6e12, 82.6e12, 32e9),
    # Without bfloat16 a T4 computes in float32 what is not stored in float16.
    Accelerator("T4", 16e9, 8.1e12, 8.1e12, 8.1e12, 16e9),
)
"""Largest memory first, and of equal ones the faster: NVIDIA's data sheets of the H200, H100 (SXM5), A100 (SXM4,
80 GB), L40S, T4, and the Ada architecture's white paper. The link is PCI Express 5, 4 or 3 by 16."""

REACHED: Final = 0.5
"""Of a peak, in large matrix products and attention together: half is what training frameworks report."""
LINK_REACHED: Final = 0.75
"""Of the link's peak, from pinned memory."""
READ_BYTES: Final = 2e9
"""A second, of one thread that copies files' pages from memory, which they were fetched into."""
WRITE_BYTES: Final = 1e9
"""A second, of one thread that writes and hashes: sha256 alone reaches 1 to 2 GB/s with a CPU's instructions for it."""
PRODUCTS_FOR_ERRORS: Final = 3
"""Of the inputs that errors are measured on with a matrix: dense, pruned, refitted."""
FACTOR_FLOPS: Final = 2
"""Times inputs cubed: a Cholesky factor, the inverse made of it, and the factor of that."""
FACTOR_REACHED: Final = 0.3
"""Of what products reach: factorisations are half triangular."""
COLUMN_SECONDS: Final = 1e-5
"""Of a solver that goes through the inputs of a matrix one by one: two launches."""
RECOMPUTED: Final = 4 / 3
"""Forward twice and backward once, over forward and backward: activations are kept at the blocks' edges alone."""


def accelerator_of(memory_bytes: float, flops: float | None = None) -> Accelerator:
    """Return the kind of GPU that a worker or a class most likely has: the largest that its memory holds.

    `flops`: operations a second, where they are known; else the slower of two that are equally large counts, and an
    A100 where nothing is known.
    """
    if memory_bytes == float("inf"):
        alike = [*ACCELERATORS] if flops else [A100]
    else:
        held = [each for each in ACCELERATORS if each.memory_bytes <= 1.05 * memory_bytes] or [ACCELERATORS[-1]]
        alike = [each for each in held if each.memory_bytes == held[0].memory_bytes]
    return min(alike, key=lambda each: abs(math.log(flops / (REACHED * each.narrow_flops)))) if flops else alike[-1]


def phase_seconds(
    spec: CompressionSpec, shape: ModelShape, gpu: Accelerator, *, file_bytes: int, routed_fraction: float = 1.0
) -> dict[str, float]:
    """Return the seconds of every phase that computes, of a resolved spec on a model that the GPU holds.

    `routed_fraction`: of the weights of experts, what one token goes through.
    """
    counted = work.works(spec, shape, file_bytes=file_bytes)
    computed = _Computed(spec, shape, gpu, routed_fraction)
    load = file_bytes / READ_BYTES + file_bytes / (LINK_REACHED * gpu.link)
    inside = file_bytes * shape.inside / shape.parameters
    compared = spec.evaluate.latency or spec.evaluate.divergence
    whole, blocks = computed.active_parameters / shape.parameters, computed.active / shape.weights
    narrow = REACHED * gpu.narrow_flops
    seconds = {
        "baseline": counted["baseline"] * whole / narrow + 2 * load,  # as stock transformers loads it, and as blocks do
        "evaluating": counted["evaluating"] * whole / narrow + load * (1 + compared),
        "exporting": counted["exporting"] / WRITE_BYTES,
    }
    for phase, walk in computed.walks().items():
        moved = max(inside / READ_BYTES, inside / WRITE_BYTES * (phase == "pruning")) if walk else 0.0
        seconds[phase] = max(walk, moved)
    if "reconstructing" in counted:
        seconds["reconstructing"] = counted["reconstructing"] * blocks / narrow + inside / WRITE_BYTES
    if "retraining" in counted:
        seconds["retraining"] = RECOMPUTED * counted["retraining"] * whole / narrow + load
        seconds["merging"] = load + inside / WRITE_BYTES
    return {phase: value for phase, value in seconds.items() if phase in counted}


class _Computed:
    """What the walks of a spec compute on a GPU, in seconds."""

    def __init__(self, spec: CompressionSpec, shape: ModelShape, gpu: Accelerator, routed_fraction: float) -> None:
        self._spec, self._shape, self._gpu, self._routed = spec, shape, gpu, routed_fraction
        self._tokens = spec.calibration.samples * (spec.calibration.sequence_length or shape.default_length)
        self.active = sum(count * self._active(block) for block, count in self._blocks())
        """Weights of the blocks that one token goes through."""
        self.active_parameters = shape.parameters - shape.weights + self.active

    def walks(self) -> dict[str, float]:
        """Return the seconds of `calibrating` and `pruning`, as `work` divides the forward passes between them."""
        forward = work.FORWARD * self.active / (REACHED * self._gpu.narrow_flops)
        steps = [step for step in self._spec.prune if isinstance(step, PruneStep)]
        if not steps:
            return {}
        times = self._spec.cycles.count if self._spec.cycles else 1
        reads_gram = any(step.reads == "gram" for step in steps)
        grams = self._grams() if reads_gram else 0.0
        chosen = self._errors() + reads_gram * self._solved()
        if self._spec.propagation == "dense":
            measured = forward * min(self._tokens, ERROR_TOKENS)
            return {"calibrating": times * (forward * self._tokens + grams), "pruning": times * (measured + chosen)}
        return {"calibrating": 0.0, "pruning": times * (2 * forward * self._tokens + grams + chosen)}

    def _grams(self) -> float:
        """Products of all inputs with themselves, in TF32; an expert sees its share of the tokens."""
        total = 0.0
        for block, count in self._blocks():
            for module, width in distinct_inputs(block):
                fraction = self._routed if _is_routed(f"{module}.") else 1.0
                total += count * 2 * width**2 * self._tokens * fraction
        return total / (REACHED * self._gpu.tf32_flops)

    def _errors(self) -> float:
        tokens = PRODUCTS_FOR_ERRORS * min(self._tokens, ERROR_TOKENS)
        return 2 * self._shape.weights * tokens / (REACHED * self._gpu.float_flops)

    def _solved(self) -> float:
        """Factorise the distinct Gram matrices, and go through the columns of every matrix."""
        cubes = sum(count * width**3 for block, count in self._blocks() for _, width in distinct_inputs(block))
        columns = sum(count * each.inputs for block, count in self._blocks() for each in block.maps)
        factorised = FACTOR_FLOPS * cubes / (FACTOR_REACHED * REACHED * self._gpu.float_flops)
        return factorised + columns * COLUMN_SECONDS

    def _active(self, block: BlockShape) -> float:
        return sum(each.weights * (self._routed if _is_routed(each.name) else 1.0) for each in block.maps)

    def _blocks(self) -> Iterator[tuple[BlockShape, float]]:
        """Yield every kind of block and how many there are of it: of several kinds, equally many of each."""
        for block in self._shape.kinds:
            yield block, self._shape.num_blocks / len(self._shape.kinds)


def _is_routed(name: str) -> bool:
    return ".experts." in f".{name}"
