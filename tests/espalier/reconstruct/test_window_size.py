"""The memory of windows, against the table of the method card for LLaMA-2-7B and LLaMA-3-8B."""

from __future__ import annotations

import pytest

from espalier.model.layout import Block, Matrix
from espalier.reconstruct.window_size import BYTES_PER_TRAINED, Load, Room, largest_fitting, needed

GB = 10**9
LLAMA_2_7B = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096), "gate": (11008, 4096)}
LLAMA_3_8B = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096), "gate": (14336, 4096)}
TINY_LOAD = Load(tokens_per_batch=0, itemsize=2, streams_bytes=0)


def _block(shapes: dict[str, tuple[int, int]]) -> Block:
    wide = shapes["gate"]
    places = [("self_attn", name, shapes[name]) for name in "qkvo"]
    places += [("mlp", "gate", wide), ("mlp", "up", wide), ("mlp", "down", wide[::-1])]
    matrices = tuple(Matrix(f"0.{a}.{b}", 0, f"{a}.{b}", shape, False, f"{a}.{b}") for a, b, shape in places)
    return Block(0, "0", matrices, {})


# GB at 16 bytes per trained parameter: attention, mlp, block
@pytest.mark.parametrize(("shapes", "table"), [(LLAMA_2_7B, (1.07, 2.16, 3.24)), (LLAMA_3_8B, (0.67, 2.82, 3.49))])
def test_the_trained_part_is_that_of_the_method_card(
    shapes: dict[str, tuple[int, int]], table: tuple[float, float, float]
) -> None:
    block = _block(shapes)
    windows = block.matrices[:4], block.matrices[4:], block.matrices
    for window, expected in zip(windows, table, strict=True):
        trained = sum(matrix.shape[0] * matrix.shape[1] for matrix in window)
        assert round(BYTES_PER_TRAINED * trained / GB, 2) == expected
        device, host = needed(window, block, TINY_LOAD)
        resident = sum(matrix.shape[0] * matrix.shape[1] for matrix in block.matrices) * 6 - 4 * trained
        assert (device, host) == (16 * trained + resident, 12 * trained)


def test_activations_count_by_what_every_map_reads_and_gives() -> None:
    block = _block(LLAMA_3_8B)
    load = Load(tokens_per_batch=1000, itemsize=2, streams_bytes=5 * GB)
    bare, more = needed(block.matrices, block, TINY_LOAD), needed(block.matrices, block, load)
    assert more[0] - bare[0] == 1000 * 2 * sum(sum(matrix.shape) for matrix in block.matrices)
    assert more[1] - bare[1] == 5 * GB


@pytest.mark.parametrize(
    ("device", "kind"),
    [(80 * GB, "block"), (4.8 * GB, "submodule"), (3 * GB, "matrix"), (1, "matrix")],
)
def test_the_largest_window_that_fits_is_taken(device: float, kind: str) -> None:
    room = Room(device=int(device), host=500 * GB, shared=False)
    assert largest_fitting([_block(LLAMA_3_8B)], room, TINY_LOAD) == kind


def test_on_a_cpu_everything_lies_in_one_memory() -> None:
    block = _block(LLAMA_3_8B)
    device, host = needed(block.matrices, block, TINY_LOAD)
    total = int((device + host) / 0.8) + 1
    assert largest_fitting([block], Room(device=total, host=total, shared=True), TINY_LOAD) == "block"
    assert largest_fitting([block], Room(device=total - 10, host=total - 10, shared=True), TINY_LOAD) == "submodule"
