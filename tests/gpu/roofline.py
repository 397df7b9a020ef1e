"""What the products of a block take at a card's peak rates: the measure that measured seconds are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.gpu.shapes import Shape

ABOUT: Final = """\
Seconds of a block at the rates below: two forward passes over the calibration tokens, attention included, and for
methods that read them the Gram matrices, in bfloat16; factorisations and sweeps in float32; for reconstruction two
forward passes, and forward and backward passes of its epochs on seven eighths of the windows, though a fit may end
early. Selection, copies, files and hashes count nothing, so that a block that is pruned faster is a mistake."""

EPOCHS: Final = 4
"""Of a reconstruction, by default."""
TRAINED: Final = 7 / 8
"""Of the windows; the others are held out."""


@dataclass(frozen=True)
class Peak:
    """Rates of a card, a second, dense."""

    bfloat16: float
    """Operations."""
    float32: float
    """Operations, without TF32."""
    memory: float
    """Bytes."""
    source: str


PEAKS: Final = {
    "H200": Peak(989e12, 67e12, 4.8e12, "NVIDIA H200 datasheet, SXM"),
    "H100 80GB HBM3": Peak(989e12, 67e12, 3.35e12, "NVIDIA H100 datasheet, SXM"),
    "A100-SXM4-80GB": Peak(312e12, 19.5e12, 2.039e12, "NVIDIA A100 datasheet, SXM, 80 GB"),
}
"""Part of a card's name -> its rates; of any other card those count that the row `speeds` has measured."""


def constants() -> list[tuple[str, str, str]]:
    """Return the rates as rows: what, value, source."""
    rows = []
    for name, peak in PEAKS.items():
        rows += [
            (f"{name}, bfloat16", f"{peak.bfloat16 / 1e12:.0f} TFLOP/s", peak.source),
            (f"{name}, float32", f"{peak.float32 / 1e12:.1f} TFLOP/s", peak.source),
            (f"{name}, memory", f"{peak.memory / 1e12:.2f} TB/s", peak.source),
        ]
    return [*rows, ("any other card", "the rates of the row `speeds`", "measured")]


def peak_of(name: str, speeds: dict[str, float]) -> Peak:
    """Return the rates of a card by its name, or the measured ones."""
    for part, peak in PEAKS.items():
        if part in name:
            return peak
    if not {"bfloat16", "float32", "memory"} <= speeds.keys():
        raise LookupError(f"no rates are known of {name}, and the row `speeds` has not measured them")
    return Peak(speeds["bfloat16"], speeds["float32"], speeds["memory"], "measured")


def block_seconds(shape: Shape, method: str, peak: Peak) -> float:
    """Return the seconds of one block: method `wanda`, `sparsegpt` or `reconstruct`."""
    half = _forward(shape) * 2
    if method == "sparsegpt":
        return (half + _grams(shape)) / peak.bfloat16 + _solving(shape) / peak.float32
    if method == "reconstruct":
        half += 3 * _forward(shape) * EPOCHS * TRAINED
    return half / peak.bfloat16


def _weights(maps: list[tuple[int, int]]) -> int:
    return sum(outputs * inputs for outputs, inputs in maps)


def _forward(shape: Shape) -> float:
    """Operations of one pass; a token attends to half of its window, on average."""
    active = _weights(shape.attention) + shape.chosen * _weights(shape.mlp)
    return shape.tokens * (2 * active + 2 * shape.length * shape.heads * shape.head)


def _grams(shape: Shape) -> float:
    """Operations of one Gram matrix for each input that differs."""
    attention = shape.width**2 + (shape.heads * shape.head) ** 2
    return 2 * shape.tokens * (attention + shape.chosen * (shape.width**2 + shape.inner**2))


def _solving(shape: Shape) -> float:
    """Operations of a factorisation with its inverse, once for each Gram matrix, and of the sweeps over columns."""
    experts = max(shape.experts, 1)
    factors = shape.width**3 + (shape.heads * shape.head) ** 3 + experts * (shape.width**3 + shape.inner**3)
    sweeps = [*shape.attention, *(shape.mlp * experts)]
    return factors + sum(outputs * inputs**2 for outputs, inputs in sweeps)
