"""Sparse model soups: the mean of models that were retrained from the same pruned weights (arXiv 2306.16788)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from espalier.errors import UnequalMembersError
from espalier.model.weights import Weights


def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Average in float32; the sum is in float64, where the mean of equal values is exactly that value."""
    total = tensors[0].double()
    for tensor in tensors[1:]:
        total = total + tensor.double()
    return (total / len(tensors)).float()


class Blend(Weights):
    """The average of several models' weights, read tensor by tensor, in the dtype of the models."""

    def __init__(self, members: Sequence[Weights]) -> None:
        self.__dict__.update(members[0].__dict__)
        self.members = tuple(members)

    def get(self, name: str) -> torch.Tensor:
        """Average one tensor; what counts or indexes is equal in all members and stays as it is."""
        tensors = [member.get(name) for member in self.members]
        return mean(tensors).to(tensors[0].dtype) if tensors[0].is_floating_point() else tensors[0]


@dataclass(frozen=True)
class Masks:
    """The packed masks of one member, by module name."""

    names: frozenset[str]
    read: Callable[[str], torch.Tensor]

    @classmethod
    def of_folder(cls, folder: Path) -> Masks:
        """Read the masks of an artifact."""
        handle = safe_open(folder / "masks.safetensors", framework="pt")
        names: list[str] = handle.offset_keys()  # type: ignore[no-untyped-call]
        return cls(frozenset(names), handle.get_tensor)

    @classmethod
    def of_weights(cls, weights: Weights) -> Masks:
        """Read the masks that lie over a model's weights."""
        return cls(frozenset(weights.mask_names), weights.packed_mask)


def require_equal(members: Sequence[Masks]) -> None:
    """Raise UnequalMembersError unless all members prune the same weights: a mean of others would fill zeros in."""
    first = members[0]
    for number, other in enumerate(members[1:], start=2):
        if other.names != first.names:
            raise _unequal(number, None)
        for name in sorted(first.names):
            if not torch.equal(first.read(name), other.read(name)):
                raise _unequal(number, name)


def _unequal(number: int, module: str | None) -> UnequalMembersError:
    where = f" in {module}" if module else ""
    return UnequalMembersError(
        f"member {number} is pruned otherwise than member 1{where}",
        hint="Average models that were retrained from the same pruned weights.",
        module=module,
    )


def greedy(losses: Sequence[float], blended: Callable[[Sequence[int]], float]) -> tuple[list[int], float]:
    """Choose members: the best first, and every further one with which the blend's loss does not rise.

    `blended` gives the loss of the average of some members; returns their indices and the loss of their average, which
    is at most the smallest of `losses`.
    """
    order = sorted(range(len(losses)), key=lambda index: losses[index])
    chosen, lowest = [order[0]], losses[order[0]]
    for index in order[1:]:
        loss = blended([*chosen, index])
        if loss <= lowest:
            chosen, lowest = [*chosen, index], loss
    return chosen, lowest
