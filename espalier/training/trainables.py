"""Trainable parameters: kept weights of pruned matrices, norms, biases; found by structure, never by class name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from espalier.recipe.steps.retrain import Trained
from espalier.training.host_copies import copy_to_host

Kind = Literal["weights", Trained]
"""The kind of a trainable, as a spec names it."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """One float32 parameter that moves, and where it may."""

    name: str
    kind: Kind
    parameter: nn.Parameter
    pruned: torch.Tensor | None = None
    """In the parameter's own shape, True where the parameter is zero and stays zero: a mask's inverse, made once."""
    stored: torch.dtype = torch.float32
    """The dtype in which the parameter is written."""
    size: float | None = None
    """The scale that learning rates are relative to, where it is not the parameter's own."""

    @torch.no_grad()
    def scale(self) -> float:
        """Return the root mean square of the values that may change."""
        values = self.parameter if self.pruned is None else self.parameter[~self.pruned]
        return float(values.float().square().mean().sqrt()) if values.numel() else 0.0

    @torch.no_grad()
    def hold_zeros(self) -> None:
        """Write the zeros again; a positive zero, whatever sign the weight had."""
        if self.pruned is not None:
            self.parameter.masked_fill_(self.pruned, 0.0)

    @torch.no_grad()
    def round_to_stored(self) -> None:
        """Round to what will be written."""
        self.parameter.copy_(self.parameter.to(self.stored))

    @torch.no_grad()
    def hold_gradient(self) -> None:
        """Let nothing pull at the zeros, so that the optimizer's state stays zero there too."""
        if self.pruned is not None and self.parameter.grad is not None:
            self.parameter.grad.masked_fill_(self.pruned, 0.0)


def norms_and_biases(module: nn.Module, kinds: Collection[str]) -> list[tuple[str, Kind, nn.Parameter]]:
    """List the 1-D weights of norms and every bias, in the order of the module, shared parameters once.

    A norm is a leaf whose `weight` is 1-D: LayerNorm, any RMSNorm, the norms of queries and keys.
    """
    parameters: list[tuple[str, Kind, nn.Parameter]] = []
    for name, parameter in module.named_parameters():
        leaf = name.rpartition(".")[2]
        kind: Kind | None = "biases" if leaf.endswith("bias") else "norms" if leaf == "weight" else None
        if parameter.ndim == 1 and kind is not None and kind in kinds:
            parameters.append((name, kind, parameter))
    return parameters


class Unfreezing:
    """Makes parameters of a frozen module trainable; who owns which is looked up once, for all of them."""

    def __init__(self, module: nn.Module) -> None:
        """Find every owner of every parameter: a tied one has several."""
        self._module = module
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for owner in module.modules():
            for leaf, parameter in owner._parameters.items():
                if parameter is not None:
                    self._owners.setdefault(id(parameter), []).append((owner, leaf))

    def unfreeze(self, name: str) -> nn.Parameter:
        """Make one parameter trainable, in float32; under all its names: a tied head stays tied."""
        parameter = self._module.get_parameter(name)
        if parameter.dtype != torch.float32:
            owners = self._owners.pop(id(parameter))
            parameter = nn.Parameter(parameter.detach().float())
            for owner, leaf in owners:
                owner._parameters[leaf] = parameter
            assert self._module.get_parameter(name) is parameter
        parameter.requires_grad_(True)
        return parameter


def embeddings(model: nn.Module) -> list[str]:
    """List the embedding tables of tokens and positions by name, shared parameters once."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [name for name, parameter in model.named_parameters() if id(parameter) in tables]


def kind_of(name: str, parameter: nn.Parameter) -> Kind:
    """Classify a parameter of a model: a norm, a bias, or weights."""
    if parameter.ndim == 1:
        return "biases" if name.endswith("bias") else "norms"
    return "weights"


def freeze(module: nn.Module, among: Callable[[str], bool] = lambda _: True) -> None:
    """Let nothing of a module move, or of those of its parameters that are meant, and drop its gradients."""
    for name, parameter in module.named_parameters():
        if among(name):
            parameter.requires_grad_(False)
            parameter.grad = None


def window_trainables(
    block: nn.Module,
    *,
    kinds: Collection[str],
    masks: Mapping[str, torch.Tensor],
    stored: Mapping[str, torch.dtype],
    among: Collection[str],
) -> list[Trainable]:
    """Freeze a block and thaw what a window fits; `masks`, `stored` and `among` go by names inside the block."""
    freeze(block)
    unfreezing = Unfreezing(block)
    chosen: list[tuple[str, Kind]] = []
    if "weights" in kinds:
        chosen += [(name, "weights") for name, _ in block.named_parameters() if name in masks]
    chosen += [(name, kind) for name, kind, _ in norms_and_biases(block, kinds)]
    return [
        Trainable(name, kind, unfreezing.unfreeze(name), _inverse(masks.get(name)), stored[name])
        for name, kind in chosen
        if name in among
    ]


def _inverse(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else ~mask


def count_trained(trainables: Sequence[Trainable]) -> int:
    """Count the numbers that can change; the device is waited for once."""
    pruned = [item.pruned.sum() for item in trainables if item.pruned is not None]
    zeros = int(torch.stack(pruned).sum()) if pruned else 0
    return sum(item.parameter.numel() for item in trainables) - zeros


def snapshot(trainables: Iterable[Trainable]) -> list[torch.Tensor]:
    """Copy the values of trainables to the host: the device has better use for its memory."""
    return copy_to_host([item.parameter for item in trainables])


@torch.no_grad()
def restore(trainables: Iterable[Trainable], values: Iterable[torch.Tensor]) -> None:
    """Write copied values back."""
    for item, value in zip(trainables, values, strict=True):
        item.parameter.copy_(value)
