"""The numbers that every formula shares, each with its unit and where it comes from."""

from __future__ import annotations

from typing import Final, Literal

Device = Literal["cpu", "cuda"]
"""Where a job computes: on a CPU, or on a GPU with a memory of its own."""

FLOAT_BYTES: Final = 4
"""Of a float32 number: statistics, solvers and trained values are float32 always."""
OPTIMIZED_BYTES: Final = 4 * FLOAT_BYTES
"""Of a number that AdamW moves: value, gradient and two moments, all float32."""
LIBRARIES_BYTES: Final = 512 * 2**20
"""Of a child before it reads a weight: torch, transformers and a tokenizer. Measured 375 to 430 MiB with a CPU build of
torch; a CUDA build takes up to 300 MiB more."""
TOKENS_PER_BATCH: Final = 2048
"""Of a walk at once, or one window: enough to keep matrix products busy, few enough for the activations of a block."""
