"""Units of a block that can go as a whole: neurons of the MLP, groups of query heads with their key and value head.

A unit is rows of the maps that produce it (and of their biases) and columns of the one map that consumes it, which the
family declares. Neurons are made by the maps beside that one; queries, keys and values are known by running the block:
by the order in which they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.families import Family
from espalier.methods.structured import UnitKind
from espalier.model.halves import Run
from espalier.model.layout import Block, Matrix, is_linear


@dataclass(frozen=True)
class Rows:
    """Rows of a producer that belong to units: unit u owns `size` rows from `u * size` on."""

    matrix: Matrix
    size: int


@dataclass(frozen=True)
class Units:
    """Equal units of one block."""

    part: UnitKind
    count: int
    producers: tuple[Rows, ...]
    consumer: Matrix
    size: int
    """Columns of the consumer that a unit owns."""

    def columns(self, units: torch.Tensor) -> torch.Tensor:
        """Return the consumer's columns of some units."""
        return spans(units, self.size)

    def cuts(self, block: Block, kept: torch.Tensor) -> dict[str, tuple[int, torch.Tensor]]:
        """Map a tensor of the files to (dimension, indices kept)."""
        cuts: dict[str, tuple[int, torch.Tensor]] = {}
        for rows in self.producers:
            stay = spans(kept, rows.size)
            cuts[rows.matrix.tensor] = (1 if rows.matrix.transposed else 0, stay)
            bias = block.tensors.get(f"{rows.matrix.local}.bias")
            if bias is not None:
                cuts[bias] = (0, stay)
        cuts[self.consumer.tensor] = (0 if self.consumer.transposed else 1, self.columns(kept))
        return cuts


def spans(units: torch.Tensor, size: int) -> torch.Tensor:
    """Return the indices that units of `size` own, in order."""
    return (units[:, None] * size + torch.arange(size)).flatten()


def find_units(part: UnitKind, block: Block, module: nn.Module, run: Run, probe: torch.Tensor, family: Family) -> Units:
    """Find the units of one block; UnsupportedArchitectureError where it is not built as its family declares."""
    if why := family.why_not(part):
        raise _refusal(block, why)
    if part == "neurons":
        return _neurons(block, family.readers[part])
    return _groups(_calls(block, module, run, probe), block, module, family)


def _calls(block: Block, module: nn.Module, run: Run, probe: torch.Tensor) -> list[Matrix]:
    """The block's matrices in the order in which they run."""
    by_name = {matrix.local: matrix for matrix in block.matrices}
    order: list[Matrix] = []
    handles = [
        child.register_forward_hook(lambda *_, name=name: order.append(by_name[name]))
        for name, child in module.named_modules()
        if is_linear(child) and name in by_name
    ]
    try:
        with torch.no_grad():
            run(probe)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _neurons(block: Block, reader: str) -> Units:
    """Find the neurons by the names of their maps: by widths, one that widens may look like one that narrows."""
    parent = reader.rpartition(".")[0]
    siblings = [matrix for matrix in block.matrices if matrix.local.rpartition(".")[0] == parent]
    consumers = [matrix for matrix in siblings if matrix.local == reader]
    producers = [matrix for matrix in siblings if matrix.local != reader]
    inner = consumers[0].shape[1] if consumers else 0
    if not 1 <= len(producers) <= 2 or any(matrix.shape[0] != inner for matrix in producers):
        raise _refusal(block, "its MLP is not one or two maps up and one down")
    return Units("neurons", inner, tuple(Rows(matrix, 1) for matrix in producers), consumers[0], 1)


def _groups(calls: Sequence[Matrix], block: Block, module: nn.Module, family: Family) -> Units:
    queries, keys, size = family.num_attention_heads, family.kv_heads, family.head_size
    inner, narrow = queries * size, keys * size
    sizes = [matrix.shape[0] for matrix in calls[:3]]
    if sizes != [inner, narrow, narrow] or len(calls) < 4 or calls[3].shape[1] != inner:
        raise _refusal(block, "its queries, keys and values are not three maps of their own")
    attention = calls[0].local.rpartition(".")[0]
    for name, parameter in module.named_parameters():
        if name.startswith(f"{attention}.") and "norm" in name and parameter.shape[0] in {inner, narrow} - {size}:
            raise _refusal(block, f"{name} normalises all heads together")
    per_key = queries // keys
    rows = (Rows(calls[0], per_key * size), Rows(calls[1], size), Rows(calls[2], size))
    return Units("kv_groups", keys, rows, calls[3], per_key * size)


def _refusal(block: Block, why: str) -> UnsupportedArchitectureError:
    return UnsupportedArchitectureError(
        f"{block.name} cannot be made narrower: {why}", hint="Prune its depth, or single weights.", module=block.name
    )
