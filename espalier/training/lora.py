"""Low-rank updates of a pruned matrix: how each enters the forward pass, what it pulls at, and what it merges to.

Shapes: O outputs, I inputs, R rank, T tokens (any leading axes). A mask is boolean, True = keep.
P = B A is the product.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import torch
from torch import nn
from torch.nn import functional

from espalier.errors import TargetsError
from espalier.model import masks

LORA_A: Final = "lora_a"
LORA_B: Final = "lora_b"
"""Suffixes of the factors behind the name of their matrix."""
PART: Final = 2**17
"""Elements of an effective weight that are made at a time, at least."""


def effective_weight(
    weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return W + scale P * M, MaskLoRA's weight of the forward pass and of the merge alike, in the factors' dtype."""
    return _product(b_OR, a_RI).mul_(mask_OI).mul_(scale).add_(weight_OI)


def require_rank(rank: int, shape: Sequence[int], *, name: str) -> None:
    """Raise TargetsError where a matrix (O, I) has fewer outputs or inputs than the rank of its update."""
    if rank > min(shape):
        raise TargetsError(
            f"{name} is only {shape[0]} x {shape[1]}, too small for a rank of {rank}",
            hint=f"Ask for a rank of {min(shape)} at most.",
            module=name,
        )


def _product(b_OR: torch.Tensor, a_RI: torch.Tensor) -> torch.Tensor:
    # Autocast would multiply the factors in half precision, and the merge would then differ from the forward pass.
    with torch.autocast(a_RI.device.type, enabled=False):
        return b_OR @ a_RI


class Adapter(nn.Module, ABC):
    """A frozen linear map with a trainable low-rank update; starts as the map itself."""

    merges_exactly: ClassVar[bool] = True
    """Whether the merged map is the trained one."""

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
        num_outputs, self.num_inputs = mask_OI.shape
        device = next(base.parameters()).device
        self.base = base
        self.transposed = transposed  # Conv1D stores (I, O)
        self.scale = alpha / rank
        # Eight to the byte: beside bfloat16 weights a boolean mask would be half of their size.
        self.register_buffer("bits", masks.pack(mask_OI).to(device))
        a_RI, b_OR = self.first_factors(rank, num_outputs, self.num_inputs, generator)
        self.a_RI = nn.Parameter(a_RI.to(device))
        self.b_OR = nn.Parameter(b_OR.to(device))

    bits: torch.Tensor

    def first_factors(
        self, rank: int, num_outputs: int, num_inputs: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw A uniform in +-1/sqrt(I), Kaiming's with a = sqrt(5) as in the LoRA literature; B is zero."""
        bound = 1 / math.sqrt(num_inputs)  # drawn on the CPU, so that a seed means the same everywhere
        a_RI = torch.rand((rank, num_inputs), generator=generator) * (2 * bound) - bound
        return a_RI, torch.zeros((num_outputs, rank))

    def oriented_weight(self) -> torch.Tensor:
        """Return the frozen weight, outputs first."""
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]
        return weight.T if self.transposed else weight

    @classmethod
    @abstractmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the merged weight, in the factors' dtype."""


class Effective(Adapter):
    """An update that needs the whole matrix in the forward pass; no copy of it outlives the product with the inputs."""

    @classmethod
    @abstractmethod
    def pull(
        cls, gradient_OI: torch.Tensor, weight_OI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Compute the gradient of P, in place, given the gradient G = dY^T X of the effective weight."""

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Apply the map with its current update."""
        bias_O: torch.Tensor | None = self.base.bias  # type: ignore[assignment]
        output: torch.Tensor = _EffectiveLinear.apply(  # type: ignore[no-untyped-call]
            x_TI, self.oriented_weight(), bias_O, self.a_RI, self.b_OR, self.bits, self.scale, type(self)
        )
        return output


class MaskLora(Effective):
    """W + scale P * M: lives on the kept weights only (PERP)."""

    @classmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the weight of the forward pass."""
        return effective_weight(weight_OI, b_OR, a_RI, mask_OI, scale)

    @classmethod
    def pull(
        cls, gradient_OI: torch.Tensor, weight_OI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Scale G * M."""
        return gradient_OI.mul_(mask_OI).mul_(scale)


class ScaleLora(Effective):
    """W * P, from factors of 1/sqrt(R): P starts as all ones; alpha / R would only undo that, so there is no scale."""

    def first_factors(
        self, rank: int, num_outputs: int, num_inputs: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return factors of 1/sqrt(R) everywhere."""
        value = 1 / math.sqrt(rank)
        return torch.full((rank, num_inputs), value), torch.full((num_outputs, rank), value)

    @classmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the weight of the forward pass."""
        return _product(b_OR, a_RI).mul_(weight_OI)

    @classmethod
    def pull(
        cls, gradient_OI: torch.Tensor, weight_OI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Compute G * W."""
        return gradient_OI.mul_(weight_OI)


class Spp(Effective):
    """W + scale W * P: an update in proportion to the weight, merged as it is trained (SPP, arXiv 2405.16057)."""

    @classmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the weight of the forward pass."""
        return _product(b_OR, a_RI).mul_(scale).add_(1).mul_(weight_OI)

    @classmethod
    def pull(
        cls, gradient_OI: torch.Tensor, weight_OI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Scale G * W."""
        return gradient_OI.mul_(weight_OI).mul_(scale)


class Lora(Adapter):
    """W + scale P as two thin products; the update is dense, so it stays apart from pruned weights."""

    def forward(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Apply the map and add its update."""
        thin_TR = functional.linear(x_TI.to(self.a_RI.dtype), self.a_RI)
        output: torch.Tensor = self.base(x_TI) + self.scale * functional.linear(thin_TR, self.b_OR)
        return output

    @classmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the dense sum, for a matrix without zeros to keep."""
        return _product(b_OR, a_RI).mul_(scale).add_(weight_OI)


class LoraPrune(Lora):
    """Trained as LoRA, pruned when merged: what it learnt on pruned weights is thrown away (PERP's baseline)."""

    merges_exactly = False

    @classmethod
    def merged(
        cls, weight_OI: torch.Tensor, b_OR: torch.Tensor, a_RI: torch.Tensor, mask_OI: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return the weight with the masked part of the update alone."""
        return effective_weight(weight_OI, b_OR, a_RI, mask_OI, scale)


ADAPTERS: Final[dict[str, type[Adapter]]] = {
    "mask_lora": MaskLora,
    "scale_lora": ScaleLora,
    "lora_prune": LoraPrune,
    "lora": Lora,
    "spp": Spp,
    "head": Lora,
}
"""The words of a spec."""


class _EffectiveLinear(torch.autograd.Function):
    """x W_eff^T + bias, which recomputes W_eff in backward instead of keeping one copy per layer alive.

    With D the gradient of P that `pull` gives: dB = D A^T, dA = B^T D. No more than a few rows of either W_eff or D
    exist at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it no type
        x_TI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        a_RI: torch.Tensor,
        b_OR: torch.Tensor,
        bits: torch.Tensor,
        scale: float,
        form: type[Effective],
    ) -> torch.Tensor:
        x_TI = x_TI.to(weight_OI.dtype)
        ctx.save_for_backward(x_TI, weight_OI, a_RI, b_OR, bits)
        ctx.scale, ctx.form = scale, form
        ctx.bias_dtype = None if bias_O is None else bias_O.dtype
        output_TO = x_TI.new_empty((*x_TI.shape[:-1], len(weight_OI)))
        for rows in _row_parts(weight_OI):
            mask_OI = masks.unpack_here(bits[rows], num_inputs=weight_OI.shape[1])
            effective_OI = form.merged(weight_OI[rows], b_OR[rows], a_RI, mask_OI, scale).to(weight_OI.dtype)
            bias = None if bias_O is None else bias_O[rows].to(weight_OI.dtype)
            output_TO[..., rows] = functional.linear(x_TI, effective_OI, bias)
        return output_TO

    @staticmethod
    def backward(ctx: Any, dy_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x_TI, weight_OI, a_RI, b_OR, bits = ctx.saved_tensors
        flat_dy_TO, flat_x_TI = dy_TO.reshape(-1, dy_TO.shape[-1]), x_TI.reshape(-1, x_TI.shape[-1])
        dx_TI = torch.zeros_like(flat_x_TI, dtype=a_RI.dtype) if ctx.needs_input_grad[0] else None
        pulled = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        da_RI, db_OR = (torch.zeros_like(a_RI), torch.empty_like(b_OR)) if pulled else (None, None)
        for rows in _row_parts(weight_OI):
            dy_part_TO, mask_OI = flat_dy_TO[:, rows], masks.unpack_here(bits[rows], num_inputs=weight_OI.shape[1])
            if dx_TI is not None:
                effective_OI = ctx.form.merged(weight_OI[rows], b_OR[rows], a_RI, mask_OI, ctx.scale)
                dx_TI += dy_part_TO @ effective_OI.to(weight_OI.dtype)
            if da_RI is not None and db_OR is not None:
                gradient_OI = (dy_part_TO.T @ flat_x_TI).to(a_RI.dtype)
                pull_OI = ctx.form.pull(gradient_OI, weight_OI[rows], mask_OI, ctx.scale)
                da_RI += b_OR[rows].T @ pull_OI
                db_OR[rows] = pull_OI @ a_RI.T
        if dx_TI is not None:
            dx_TI = dx_TI.to(x_TI.dtype).reshape(x_TI.shape)
        dbias_O = flat_dy_TO.sum(0, dtype=a_RI.dtype).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return dx_TI, None, dbias_O, da_RI, db_OR, None, None, None


def _row_parts(weight_OI: torch.Tensor) -> list[slice]:
    """A sixteenth of the rows each, where that is not too little; a GPU asks for more work to a kernel."""
    num_outputs, num_inputs = weight_OI.shape
    min_elements = PART if weight_OI.device.type == "cpu" else 64 * PART
    size = max(-(-num_outputs // 16), -(-min_elements // num_inputs))
    return [slice(first, first + size) for first in range(0, num_outputs, size)]
