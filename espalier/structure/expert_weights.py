"""Experts of a block: their routing statistics, and their tensors and rows of the router."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.methods.structured import Routing
from espalier.model.fused_experts import SeparateExperts, sent_order
from espalier.model.layout import Block
from espalier.model.weights import Weights


@dataclass(frozen=True)
class Mixture:
    """The mixture of one block."""

    local: str
    """Module name of the experts within the block."""
    count: int
    router: tuple[str, ...]
    """Tensors of the files with one row per expert."""


def find_mixture(block: Block, module: nn.Module, weights: Weights) -> Mixture | None:
    """Find the mixture of experts of a block; None for a block without experts."""
    mixtures = [(name, child) for name, child in module.named_modules() if isinstance(child, SeparateExperts)]
    if not mixtures:
        return None
    ((local, experts),) = mixtures
    parent = local.rpartition(".")[0]
    maps = {f"{matrix.local}.weight" for matrix in block.matrices}
    router = tuple(
        tensor
        for name, tensor in block.tensors.items()
        if name.startswith(f"{parent}.") and not name.startswith(f"{local}.") and name not in maps
        if weights.shape(tensor)[0] == len(experts)
    )
    if not router:
        raise UnsupportedArchitectureError(
            f"{block.name} has experts and no router that could be narrowed",
            hint="Prune single weights.",
            module=block.name,
        )
    return Mixture(local, len(experts), router)


@contextmanager
def routing(module: nn.Module, mixture: Mixture, width: int) -> Iterator[Routing]:
    """Watch the experts of a block while it runs; the statistics lie where the experts are."""
    experts = module.get_submodule(mixture.local)
    assert isinstance(experts, SeparateExperts)
    zeros = torch.zeros(mixture.count, dtype=torch.float64, device=next(experts.parameters()).device)
    statistics = Routing(zeros.long(), zeros.clone(), zeros[:, None].expand(-1, width).clone(), zeros.clone())
    unseen: list[torch.Tensor] = []
    """The gate weights of a batch that are still to be met, in the order in which the tokens are sent."""

    def route(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        chosen_TK, share_TK = args[1:3]
        unseen[:] = [share_TK.T.reshape(-1)[sent_order(chosen_TK)]]

    def watch(index: int) -> object:
        def hook(_module: nn.Module, _args: object, output_TD: torch.Tensor) -> None:
            share_T, unseen[0] = unseen[0][: len(output_TD)], unseen[0][len(output_TD) :]
            output = output_TD.double()
            norm_T = output.norm(dim=1)
            statistics.tokens_E[index] += len(output)
            statistics.weighed_E[index] += (share_T.double() * norm_T).sum()
            statistics.sum_ED[index] += output.sum(dim=0)
            statistics.squares_E[index] += norm_T.square().sum()

        return hook

    handles = [experts.register_forward_pre_hook(route)]
    for index, expert in enumerate(experts):
        handles.append(expert.register_forward_hook(watch(index)))  # type: ignore[arg-type]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


def cuts(block: Block, mixture: Mixture, weights: Weights, kept: torch.Tensor) -> dict[str, tuple[int, torch.Tensor]]:
    """Map a tensor of the files to (dimension, indices kept): the router, and stacked experts."""
    narrowed = dict.fromkeys(mixture.router, (0, kept))
    for name, tensor in block.tensors.items():
        home = weights.home(tensor)
        if name.startswith(f"{mixture.local}.") and home != tensor:
            narrowed[home] = (0, kept)
    return narrowed


def renamed(block: Block, mixture: Mixture, weights: Weights, kept: Sequence[int]) -> Mapping[str, str | None]:
    """Map a tensor that holds one expert's layer to its name in the smaller model, None when it is removed."""
    numbers = {old: new for new, old in enumerate(kept)}
    new_names: dict[str, str | None] = {}
    for name, tensor in block.tensors.items():
        if not name.startswith(f"{mixture.local}.") or weights.home(tensor) != tensor:
            continue
        old = int(name.removeprefix(f"{mixture.local}.").partition(".")[0])
        spelled, count = re.subn(rf"\.{old}\.(?=[^.]+\.[^.]+$)", f".{numbers.get(old)}.", tensor)
        assert count == 1, tensor
        new_names[tensor] = spelled if old in numbers else None
    return new_names
