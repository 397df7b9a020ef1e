"""MaskLoRA: low-rank updates of a pruned matrix that live on its kept weights only: merging is exact.

Shapes: O outputs, I inputs, R rank, T tokens (any leading axes). A mask is boolean, True = keep.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

LORA_A: Final = "lora_a"
LORA_B: Final = "lora_b"
"""What the factors are called behind the name of their matrix."""


def effective_weight(
    weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return W + scale (B A) * M in float32: the weight of the forward pass and of the merge alike."""
    # Autocast would multiply the factors in half precision, and the merge would then differ from the forward pass.
    with torch.autocast(weight_OI.device.type, enabled=False):
        return torch.addcmul(weight_OI.float(), b_OR @ a_RI, mask_OI.float(), value=scale)


class _MaskedLowRankLinear(torch.autograd.Function):
    """x W_eff^T + bias, which recomputes W_eff in backward instead of keeping one copy per layer alive.

    With G = dY^T X: dB = scale (G * M) A^T, dA = scale B^T (G * M).
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it no type
        x_TI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        mask_OI: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        x_TI = x_TI.to(weight_OI.dtype)
        ctx.save_for_backward(x_TI, weight_OI, a_RI, b_OR, mask_OI)
        ctx.scale = scale
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        effective_OI = effective_weight(weight_OI, b_OR, a_RI, mask_OI, scale).to(weight_OI.dtype)
        return functional.linear(x_TI, effective_OI, None if bias_O is None else bias_O.to(weight_OI.dtype))

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x_TI, weight_OI, a_RI, b_OR, mask_OI = ctx.saved_tensors
        dx_TI = dbias_O = da_RI = db_OR = None
        flat_dy_TO = dy_TO.reshape(-1, dy_TO.shape[-1])
        if ctx.needs_input_grad[0]:
            effective_OI = effective_weight(weight_OI, b_OR, a_RI, mask_OI, ctx.scale).to(weight_OI.dtype)
            dx_TI = dy_TO @ effective_OI
        if ctx.needs_input_grad[2]:
            dbias_O = flat_dy_TO.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            gradient_OI = (flat_dy_TO.T @ x_TI.reshape(-1, x_TI.shape[-1])).float().mul_(mask_OI)
            da_RI = ctx.scale * (b_OR.T @ gradient_OI)
            db_OR = ctx.scale * (gradient_OI @ a_RI.T)
        return dx_TI, None, dbias_O, da_RI, db_OR, None, None


class MaskLora(nn.Module):
    """A frozen linear map with a trainable update B A on its kept weights; starts as the map itself."""

    def __init__(
        self,
        base: nn.Module,
        mask_OI: torch.Tensor,
        *,
        transposed: bool = False,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        num_outputs, num_inputs = mask_OI.shape
        device = next(base.parameters()).device
        self.base = base
        self.transposed = transposed  # Conv1D stores (I, O)
        self.scale = alpha / rank
        self.register_buffer("mask_OI", mask_OI.to(device))
        # Kaiming uniform with a = sqrt(5), as in the LoRA literature: U(-1/sqrt(I), 1/sqrt(I)). Drawn on the CPU, so
        # that a seed means the same everywhere.
        bound = 1 / math.sqrt(num_inputs)
        a_RI = torch.rand((rank, num_inputs), generator=generator) * (2 * bound) - bound
        self.a_RI = nn.Parameter(a_RI.to(device))
        self.b_OR = nn.Parameter(torch.zeros((num_outputs, rank), device=device))

    mask_OI: torch.Tensor

    def _oriented(self) -> torch.Tensor:
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]
        return weight.T if self.transposed else weight

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Apply the map with its current update."""
        bias_O: torch.Tensor | None = self.base.bias  # type: ignore[assignment]
        output: torch.Tensor = _MaskedLowRankLinear.apply(  # type: ignore[no-untyped-call]
            x_TI, self._oriented(), bias_O, self.a_RI, self.b_OR, self.mask_OI, self.scale
        )
        return output
