"""The Gram matrix of the inputs: all that the squared error of a changed matrix depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from espalier.methods.lazy_torch import torch
from espalier.methods.statistic import InputStatistic, Need
from espalier.methods.statistics.input_norms import InputNorms, with_unseen

if TYPE_CHECKING:
    from torch import Tensor


class Gram(InputStatistic):
    """G = X^T X over all tokens, float32 (I, I); its diagonal holds the squared norms."""

    name: ClassVar[str] = "gram"
    size: ClassVar[Need] = "gram"
    implies: ClassVar[Mapping[type[InputStatistic], Callable[[Tensor], Tensor]]] = {
        InputNorms: lambda gram_II: gram_II.diagonal().double().sqrt()
    }

    def add(self, input_TI: Tensor) -> None:
        """Add the products of a batch."""
        self.total = add_products(self.total, input_TI)

    def value(self, *, routed: bool) -> Tensor:
        """Return the matrix."""
        assert self.total is not None
        if not routed:
            return self.total
        squares_I = self.total.diagonal()
        return self.total + torch.diag(with_unseen(squares_I) - squares_I)


def add_products(total_II: Tensor | None, input_TI: Tensor) -> Tensor:
    """Add X^T X to a float32 sum, in place, or begin one; return it."""
    if input_TI.device.type != "cpu" and input_TI.dtype in {torch.bfloat16, torch.float16}:
        # Tensor cores multiply them exactly and add in float32: only the order of the sum is another one.
        product_II = torch.mm(input_TI.T, input_TI, out_dtype=torch.float32)
        return product_II if total_II is None else total_II.add_(product_II)
    wide_TI = input_TI.float()
    return wide_TI.T @ wide_TI if total_II is None else total_II.addmm_(wide_TI.T, wide_TI)
