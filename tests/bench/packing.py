"""How fast the bit-mask pack is written and read: megabytes of dense 16-bit weights a second, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from espalier.packing.pack import pack_file, packed_path
from espalier.packing.unpacking import unpack_file

SIDE = 4096
MATRICES = 4
"""Of SIDE x SIDE 16-bit elements: 128 MiB."""
REPEATS = 3


def speeds(folder: Path) -> list[tuple[str, float, float]]:
    """Pattern, MB/s packed and MB/s unpacked; CPU seconds, the best of a few, checksums and files included."""
    return [(label, *_measure(folder, label, words)) for label, words in _models()]


def _models() -> list[tuple[str, np.typing.NDArray[np.uint16]]]:
    draws = np.random.default_rng(0)
    values = draws.integers(1, 2**16, (SIDE, SIDE), dtype=np.uint16)
    chances = draws.random((SIDE, SIDE), dtype=np.float32)
    two_of_four = chances.reshape(-1, 4).argsort(axis=1).argsort(axis=1).reshape(SIDE, SIDE) < 2
    models = [
        (f"unstructured {zeros:.0%}", np.where(chances < zeros, np.uint16(0), values)) for zeros in (0.5, 0.6, 0.7)
    ]
    return [*models, ("2:4", np.where(two_of_four, np.uint16(0), values))]


def _measure(folder: Path, label: str, words: np.typing.NDArray[np.uint16]) -> tuple[float, float]:
    path = folder / f"{label.split(maxsplit=1)[0].replace(':', '-')}.safetensors"
    save_file({f"w{number}": words for number in range(MATRICES)}, path)
    pack, target = packed_path(path), folder / "again.safetensors"
    megabytes = path.stat().st_size / 1e6
    packing = _seconds(lambda: pack_file(path, pack))
    return megabytes / packing, megabytes / _seconds(lambda: unpack_file(pack, target))


def _seconds(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)
