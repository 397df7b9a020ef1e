"""MaskLoRA inside a window: adapters stand on its pruned matrices while it is fitted, and are merged before they go."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from espalier.errors import UnsupportedArchitectureError
from espalier.model.numerics import generator
from espalier.training.lora import LORA_A, LORA_B, MaskLora, effective_weight, require_rank
from espalier.training.trainables import Trainable


@dataclass(frozen=True)
class AdapterSize:
    """The size of an adapter, and the seed of its start."""

    rank: int
    alpha: float
    seed: int


@dataclass(frozen=True)
class Adapters:
    """The adapters of one window."""

    trainables: list[Trainable]
    """The factors, and behind them the frozen weights that take the merged update."""
    merges: list[Callable[[], None]]

    def merge(self) -> None:
        """Write every update into its weight and set the adapter to zero: the output stays what it was."""
        for merge in self.merges:
            merge()


@contextmanager
def adapted(
    module: nn.Module, masks: Mapping[str, torch.Tensor], *, stored: Mapping[str, torch.dtype], like: AdapterSize
) -> Iterator[Adapters]:
    """Put an adapter on every matrix whose mask is given (by parameter name, in the parameter's shape) for a while."""
    adapters = Adapters([], [])
    frozen: list[Trainable] = []
    homes: dict[str, tuple[nn.Module, MaskLora]] = {}
    for name, mask in masks.items():
        home = name.removesuffix(".weight")
        if home == name or mask.ndim != 2:
            raise UnsupportedArchitectureError(f"{name} takes no adapter", hint="Train `weights`.", module=name)
        base = module.get_submodule(home)
        transposed = isinstance(base, Conv1D)
        mask_OI = mask.T if transposed else mask
        require_rank(like.rank, mask_OI.shape, name=home)
        adapter = MaskLora(
            base,
            mask_OI,
            transposed=transposed,
            rank=like.rank,
            alpha=like.alpha,
            generator=generator(like.seed, "mask_lora", name),
        )
        homes[home] = base, adapter
        weight = Trainable(name, "weights", base.get_parameter("weight"), ~mask, stored[name])
        frozen.append(weight)
        adapters.trainables.extend(_factors(adapter, home, weight.scale()))
        weight_OI = weight.parameter.T if transposed else weight.parameter
        adapters.merges.append(partial(_merge, adapter, weight_OI, mask_OI))
    adapters.trainables.extend(frozen)
    try:
        for home, (_, adapter) in homes.items():
            module.set_submodule(home, adapter)
        yield adapters
    finally:
        for home, (base, _) in homes.items():
            module.set_submodule(home, base)


@torch.no_grad()
def _merge(adapter: MaskLora, weight_OI: torch.Tensor, mask_OI: torch.Tensor) -> None:
    weight_OI.copy_(effective_weight(weight_OI, adapter.b_OR, adapter.a_RI, mask_OI, adapter.scale))
    adapter.b_OR.zero_()


def _factors(adapter: MaskLora, home: str, weights: float) -> list[Trainable]:
    """Return both factors, scaled so that a step changes the weights as much as a step on the weights would."""
    a = Trainable(f"{home}.{LORA_A}", "mask_lora", adapter.a_RI)
    size = weights / (adapter.scale * math.sqrt(len(adapter.a_RI)) * a.scale())
    return [a, Trainable(f"{home}.{LORA_B}", "mask_lora", adapter.b_OR, size=size)]
