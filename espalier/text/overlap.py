"""Detect overlap of evaluation windows with training or calibration text, by hashes of token runs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

RUN = 32
"""Tokens in a row that must agree, in windows that hold as many: shorter runs are common phrases."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def run_length(windows_NT: torch.Tensor, learned_NT: torch.Tensor) -> int:
    """Return how many tokens in a row make an overlap of two sets of windows: RUN, or a shorter window's length."""
    return min(RUN, windows_NT.shape[1], learned_NT.shape[1])


def runs(tokens_NT: torch.Tensor, length: int) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every run of `length` tokens in every window, shape (N, T - length + 1)."""
    tokens = tokens_NT.numpy().astype(np.uint64) * _BASE
    tokens ^= tokens >> np.uint64(29)
    count = tokens.shape[1] - length + 1
    hashes = np.zeros((tokens.shape[0], count), dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * _BASE + tokens[:, offset : offset + count]  # wraps at 2**64, on purpose
    return hashes


def overlapping(windows_NT: torch.Tensor, learned_NT: torch.Tensor) -> torch.Tensor:
    """Tell for every window (N,) whether it shares a run with the learned windows; a stream is one long window."""
    length = run_length(windows_NT, learned_NT)
    known = np.unique(runs(learned_NT, length))
    return torch.from_numpy(np.isin(runs(windows_NT, length), known)).any(dim=1)
