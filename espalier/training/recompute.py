"""Gradient checkpointing: keep what enters a block, and compute the rest again when gradients need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from espalier.model.layout import find_stack


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Let every block of a model recompute its activations; the model stays in eval mode, nothing in it is random."""
    blocks = list(find_stack(model)[1])
    for block in blocks:
        # An instance attribute: transformers' own switch works in training mode only, where dropout would be on.
        block.forward = partial(_recomputed, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _recomputed(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)
