"""A step of a fit in eight logical pieces, whoever computes them: their gradients are added up in a fixed tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from espalier.distributed.group import RankGroup
from espalier.distributed.shards import Shards
from espalier.distributed.tree_sum import TreeSum


@dataclass(frozen=True)
class Pieces:
    """The part that a rank computes of every step and of every measurement of a fit."""

    group: RankGroup

    def step(
        self, chosen: torch.Tensor, backward: Callable[[torch.Tensor], torch.Tensor], moving: Sequence[nn.Parameter]
    ) -> torch.Tensor:
        """Leave the gradient of a step over some windows (N,) in its parameters, and return its loss, float32 ().

        `backward` adds the gradient of some of the windows to the parameters, and returns what they add to the loss.
        The result is the same, bit for bit, for any number of ranks.
        """
        shards = Shards.of(len(chosen), self.group)
        sums, begin, own = [TreeSum() for _ in (*moving, None)], 0, shards.own(chosen)
        for index, size in enumerate(shards.own_sizes):
            if size:
                loss = backward(own[begin : begin + size])
                for total, leaf in zip(sums, [*(parameter.grad for parameter in moving), loss], strict=True):
                    total.put(index, leaf)
                for parameter in moving:
                    parameter.grad = None
                begin += size
        totals = self.group.sum([total.total(len(shards.own_sizes)) for total in sums])
        for parameter, gradient in zip(moving, totals, strict=False):
            parameter.grad = gradient
        loss_of_all = totals[-1]
        assert loss_of_all is not None
        return loss_of_all

    def measured(self, parts: Sequence[torch.Tensor], loss: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Return the sum of the losses of parts of windows, each of which one rank computes."""
        own = {
            index: float(loss(part)) for index, part in enumerate(parts) if index % self.group.size == self.group.rank
        }
        values: dict[int, float] = {}
        for of_rank in self.group.gather_objects(own):
            values |= of_rank
        return float(torch.tensor([values[index] for index in range(len(parts))], dtype=torch.float64).sum())
