"""Which evaluation windows share text with what the job learns from: runs of 32 equal tokens, found by hashing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

RUN = 32
"""Tokens in a row that must agree: shorter runs are common phrases."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def runs(tokens_NT: torch.Tensor) -> NDArray[np.uint64]:
    """A 64-bit hash of every run of RUN tokens in every window, shape (N, T - RUN + 1)."""
    tokens = tokens_NT.numpy().astype(np.uint64) * _BASE
    tokens ^= tokens >> np.uint64(29)
    count = max(0, tokens.shape[1] - RUN + 1)
    hashes = np.zeros((tokens.shape[0], count), dtype=np.uint64)
    for offset in range(RUN):
        hashes = hashes * _BASE + tokens[:, offset : offset + count]  # wraps at 2**64, on purpose
    return hashes


def overlapping(windows_NT: torch.Tensor, learned_NT: torch.Tensor) -> torch.Tensor:
    """Tell for every window (N,) whether it shares a run with the learned windows; a stream is one long window."""
    known = np.unique(runs(learned_NT))
    return torch.from_numpy(np.isin(runs(windows_NT), known)).any(dim=1)
