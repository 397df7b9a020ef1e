"""The memory of windows, against the table of the method card for LLaMA-2-7B and LLaMA-3-8B."""

from __future__ import annotations

import pytest

from espalier.memory.constants import OPTIMIZED_BYTES
from espalier.memory.shapes import BlockShape, MapShape
from espalier.memory.windows import STREAMS, FitBatch, MemoryBudget, largest_window, window_bytes

GB = 10**9
LLAMA_2_7B = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096), "gate": (11008, 4096)}
LLAMA_3_8B = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096), "gate": (14336, 4096)}
EMPTY = FitBatch(tokens=0, itemsize=2, hidden_states=0)


def _block(shapes: dict[str, tuple[int, int]]) -> BlockShape:
    wide = shapes["gate"]
    places = [(f"self_attn.{name}", shapes[name]) for name in "qkvo"]
    places += [("mlp.gate", wide), ("mlp.up", wide), ("mlp.down", wide[::-1])]
    maps = tuple(MapShape(name, *shape) for name, shape in places)
    return BlockShape(maps, sum(each.weights for each in maps))


# GB at 16 bytes per trained parameter: attention, mlp, block
@pytest.mark.parametrize(("shapes", "table"), [(LLAMA_2_7B, (1.07, 2.16, 3.24)), (LLAMA_3_8B, (0.67, 2.82, 3.49))])
def test_the_trained_part_is_that_of_the_method_card(
    shapes: dict[str, tuple[int, int]], table: tuple[float, float, float]
) -> None:
    block = _block(shapes)
    windows = block.maps[:4], block.maps[4:], block.maps
    for window, expected in zip(windows, table, strict=True):
        trained = sum(each.weights for each in window)
        assert round(OPTIMIZED_BYTES * trained / GB, 2) == expected
        device, host = window_bytes(window, block, EMPTY)
        resident = block.weights * 6 - 4 * trained
        assert (device, host) == (16 * trained + resident, 12 * trained)


def test_activations_count_by_what_every_map_reads_and_gives() -> None:
    block = _block(LLAMA_3_8B)
    batch = FitBatch(tokens=1000, itemsize=2, hidden_states=5 * GB)
    bare, more = window_bytes(block.maps, block, EMPTY), window_bytes(block.maps, block, batch)
    assert more[0] - bare[0] == 1000 * 2 * sum(each.edges for each in block.maps)
    assert more[1] - bare[1] == STREAMS * 5 * GB


@pytest.mark.parametrize(
    ("device", "kind"),
    [(80 * GB, "block"), (4.8 * GB, "submodule"), (3 * GB, "matrix"), (1, "matrix")],
)
def test_the_largest_window_that_fits_is_taken(device: float, kind: str) -> None:
    budget = MemoryBudget(device=int(device), host=500 * GB, shared=False)
    assert largest_window([_block(LLAMA_3_8B)], budget, EMPTY) == kind


def test_on_a_cpu_everything_lies_in_one_memory() -> None:
    block = _block(LLAMA_3_8B)
    device, host = window_bytes(block.maps, block, EMPTY)
    total = int((device + host) / 0.8) + 1
    assert largest_window([block], MemoryBudget(device=total, host=total, shared=True), EMPTY) == "block"
    assert largest_window([block], MemoryBudget(device=total - 10, host=total - 10, shared=True), EMPTY) == "submodule"
