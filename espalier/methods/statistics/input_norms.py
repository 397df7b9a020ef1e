"""Norms of the inputs: how loud each input of a matrix is over the calibration text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from espalier.methods.lazy_torch import torch
from espalier.methods.statistic import InputStatistic

if TYPE_CHECKING:
    from torch import Tensor


class InputNorms(InputStatistic):
    """||X_j||_2 of every input over all tokens, float64 (I,)."""

    name: ClassVar[str] = "norms"

    def add(self, input_TI: Tensor) -> None:
        """Sum squares in float64: a float32 sum over 10^5 tokens would move near ties."""
        squares_I = input_TI.double().square_().sum(dim=0)
        self.total = squares_I if self.total is None else self.total.add_(squares_I)

    def value(self, *, routed: bool) -> Tensor:
        """Return the norms."""
        assert self.total is not None
        return (with_unseen(self.total) if routed else self.total).sqrt()


def with_unseen(squares_I: Tensor) -> Tensor:
    """Let inputs that an expert never saw count as much as the others do: its weights there go by magnitude."""
    seen_I = squares_I > 0
    on_cpu = squares_I.device.type == "cpu"  # elsewhere the host would wait for the list of indices
    mean = squares_I[seen_I].mean() if on_cpu else squares_I.sum() / seen_I.sum()
    usual = torch.where(seen_I.any(), mean, 1.0)
    return torch.where(seen_I, squares_I, usual)
