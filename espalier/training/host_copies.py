"""Copies of tensors on the host: those of an accelerator cross in few pieces, so that the host waits seldom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch

from espalier.model.numerics import is_accelerator

PIECE_BYTES: Final = 64 * 2**20
"""Of small tensors that are gathered on the device before they cross."""


def copy_to_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy tensors to the host, each into memory of its own; the device is waited for once in 64 MiB of small ones."""
    copies: dict[int, torch.Tensor] = {}
    for piece in _pieces(tensors):
        if len(piece) == 1:
            (index,) = piece
            copies[index] = tensors[index].detach().to("cpu", copy=True).contiguous()
            continue
        flat = torch.cat([tensors[index].detach().reshape(-1) for index in piece]).cpu()
        parts = torch.split(flat, [tensors[index].numel() for index in piece])
        for index, part in zip(piece, parts, strict=True):
            # Its own memory: safetensors refuses tensors that share one, and one that stays would keep the piece.
            copies[index] = part.clone().reshape(tensors[index].shape)
    return [copies[index] for index in range(len(tensors))]


def on_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors as the host reads them: copies of an accelerator's, a CPU's as they are."""
    if any(is_accelerator(tensor.device) for tensor in tensors):
        return copy_to_host(tensors)
    return [tensor.detach().contiguous() for tensor in tensors]


def _pieces(tensors: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Yield the indices of what crosses at once: of one accelerator and dtype, as many as a piece holds."""
    open_pieces: dict[tuple[torch.device, torch.dtype], tuple[list[int], int]] = {}
    for index, tensor in enumerate(tensors):
        if not is_accelerator(tensor.device) or tensor.nbytes >= PIECE_BYTES:
            yield [index]
            continue
        key = tensor.device, tensor.dtype
        piece, size = open_pieces.get(key, ([], 0))
        if size + tensor.nbytes > PIECE_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(index)
        open_pieces[key] = piece, size + tensor.nbytes
    yield from (piece for piece, _ in open_pieces.values())
