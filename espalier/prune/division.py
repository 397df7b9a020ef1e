"""Divide the matrices of a block among the ranks, and give every rank what the others made of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from espalier.distributed.group import RankGroup
from espalier.messages import Layer
from espalier.model import masks
from espalier.model.layout import Matrix


@dataclass(frozen=True)
class Made:
    """What became of one matrix."""

    row: Layer
    tensor: torch.Tensor
    """As its file holds it, on the device."""
    mask_OI: torch.Tensor
    """On the host, True = keep."""
    on_host: torch.Tensor
    """The tensor once more."""


def owners(matrices: Sequence[Matrix], size: int, *, gram: bool) -> dict[str, int]:
    """Return the rank of every matrix, by name: the largest first, each to the rank that has least to do.

    A whole matrix stays on one rank, whose bytes are those of a process alone whatever the method is. `gram`: the
    work on a matrix goes with its outputs and the square of its inputs, and with the cube of those once.
    """
    loads = [0] * size
    ranks: dict[str, int] = {}
    for matrix in sorted(matrices, key=lambda each: -_work(each, gram=gram)):
        ranks[matrix.name] = loads.index(min(loads))
        loads[ranks[matrix.name]] += _work(matrix, gram=gram)
    return ranks


def _work(matrix: Matrix, *, gram: bool) -> int:
    outputs, inputs = matrix.shape
    return outputs * inputs**2 + inputs**3 if gram else outputs * inputs


def shared(
    made: Mapping[str, Made],
    matrices: Sequence[Matrix],
    ranks: Mapping[str, int],
    group: RankGroup,
    *,
    empty: Callable[[Matrix], torch.Tensor],
) -> dict[str, Made]:
    """Return what all ranks made, by name, in the order of `matrices`; `made`: by this rank.

    `empty` returns a tensor on the device of the shape and dtype in which the file holds a matrix.
    """
    if group.size == 1:
        return dict(made)
    rows: dict[str, Layer] = {}
    for of_rank in group.gather_objects({name: each.row for name, each in made.items()}):
        rows |= of_rank
    whole: dict[str, Made] = {}
    for matrix in matrices:
        source = ranks[matrix.name]
        if source == group.rank:
            own = made[matrix.name]
            tensor, packed = own.tensor.contiguous(), masks.pack(own.mask_OI)
        else:
            tensor = empty(matrix)
            packed = torch.empty(matrix.shape[0], -(-matrix.shape[1] // 8), dtype=torch.uint8)
        group.broadcast(tensor, source=source)
        group.broadcast(packed, source=source)
        mask_OI = masks.unpack(packed, num_inputs=matrix.shape[1])
        whole[matrix.name] = Made(rows[matrix.name], tensor, mask_OI, tensor.cpu())
    return whole
