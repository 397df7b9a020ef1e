"""Masks as their own tensors: packed into bits, counted, applied, and proved on what was written.

Packed layout: uint8 of shape (O, ceil(I / 8)); bit b (value 2**b) of byte k stands for input 8k + b; 1 = keep.
"""

from __future__ import annotations

import numpy as np
import torch

from espalier.errors import BrokenResultError

_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


def pack(mask_OI: torch.Tensor) -> torch.Tensor:
    """Pack a boolean mask into bits; every row begins at a byte."""
    assert mask_OI.dtype == torch.bool
    return torch.from_numpy(np.packbits(mask_OI.cpu().contiguous().numpy(), axis=1, bitorder="little"))


def unpack(packed: torch.Tensor, *, num_inputs: int) -> torch.Tensor:
    """Unpack bits into a boolean mask (O, I)."""
    bits = np.unpackbits(packed.numpy(), axis=1, count=num_inputs, bitorder="little")
    return torch.from_numpy(bits.astype(bool))


def unpack_here(packed: torch.Tensor, *, num_inputs: int) -> torch.Tensor:
    """Unpack bits into a boolean mask (O, I) on their own device."""
    bit_offsets = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = packed.unsqueeze(-1).bitwise_right_shift(bit_offsets).bitwise_and_(1)
    return bits.view(torch.bool).flatten(1)[:, :num_inputs]


def apply(weight_OI: torch.Tensor, mask_OI: torch.Tensor) -> torch.Tensor:
    """Zero what is pruned; kept weights keep their bits."""
    return weight_OI.masked_fill(~mask_OI, 0)


def kept(packed: torch.Tensor) -> int:
    """Count the kept weights of a packed mask."""
    return int(_ONES[packed.numpy()].sum(dtype=np.int64))


def prove(weight_OI: torch.Tensor, mask_OI: torch.Tensor, *, module: str) -> None:
    """Raise unless every pruned weight is exactly zero."""
    if bool(((weight_OI != 0) > mask_OI).any()):
        raise _not_zero(module)


def prove_packed(nonzero_OI: torch.Tensor, packed: torch.Tensor, *, module: str) -> None:
    """Raise unless the packed mask keeps every weight that is not zero: an eighth of the bytes of `prove`."""
    if bool((pack(nonzero_OI) & ~packed).any()):
        raise _not_zero(module)


def _not_zero(module: str) -> BrokenResultError:
    return BrokenResultError(f"{module} has pruned weights that are not zero", hint="Report this.", module=module)
