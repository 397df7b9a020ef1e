"""Training of a model whose parameters lie in rows over the ranks: torch's FSDP2 (`fully_shard`), float32 masters.

A block is whole on a rank while it computes, then its rows again. There is no mixed-precision policy: parameters are
gathered in the dtype that one rank holds them in, and autocast narrows them there, so that every product is the one of
one rank. Gradients are summed, not averaged: a loss is weighted by how many of the step's windows it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from espalier.distributed.group import RankGroup
from espalier.distributed.rows import join_rows, own_rows
from espalier.model.fused_experts import SeparateExperts
from espalier.training.lora import Adapter
from espalier.training.trainables import Trainable


@dataclass(frozen=True)
class ForwardPart:
    """Windows that go through the model at once."""

    windows: slice
    """Among those of a batch."""
    count: int
    """How many of them count: none where a rank has nothing more to do, but the others need its rows."""


LoadedPart = tuple[nn.Module, Sequence[Trainable]]
"""A module whose weights are there, and what is trained in it."""


@dataclass
class Sharding:
    """The trained parameters of a model, this rank's rows of them, and the windows that it reads; one rank: all."""

    group: RankGroup
    model: nn.Module
    trainables: list[Trainable]
    """Of several ranks, plain tensors that are rows of the model's parameters: writing here changes the model."""
    _sharded: list[nn.Parameter] = field(default_factory=list)
    _shapes: dict[str, torch.Size] = field(default_factory=dict)
    _reached: _Reached | None = None
    _count: int = 0
    """Windows that go through now."""

    @classmethod
    def alone(cls, model: nn.Module, trainables: Sequence[Trainable]) -> Sharding:
        """Keep a model as it is, for one rank."""
        return cls(RankGroup.alone(), model, list(trainables))

    @classmethod
    def of(cls, model: nn.Module, parts: Iterable[LoadedPart], group: RankGroup, device: torch.device) -> Sharding:
        """Shard a model over the ranks of a group, part after part: no rank holds more than a whole part at a time.

        `parts`: each block, then the model itself, each with its trainables, filled once it comes.
        """
        mesh = init_device_mesh(device.type, (group.size,))
        items: list[Trainable] = []
        names: list[str] = []
        sharding = cls(group, model, [])
        for module, trainables in parts:
            known = {id(parameter): name for name, parameter in model.named_parameters()}
            own = [known[id(item.parameter)] for item in trainables]
            sharding._shapes |= {item.name: item.parameter.shape for item in trainables}
            _shard(module, mesh)
            sharded = [model.get_parameter(name) for name in own]
            items += [_rows(item, parameter, group) for item, parameter in zip(trainables, sharded, strict=True)]
            names += own
            sharding._sharded += sharded
        sharding.trainables = items
        sharding._reached = _Reached.of(model, names)
        return sharding

    def parts(self, num_windows: int, size: int | None) -> Iterator[ForwardPart]:
        """Cut a batch of windows into what this rank puts through at once, `size` at most; None: its all.

        All ranks get equally many parts, for each of them is needed wherever one computes.
        """
        each = -(-num_windows // self.group.size)
        first, end = self.group.rank * each, min((self.group.rank + 1) * each, num_windows)
        for begin in range(0, each, size or each):
            own = slice(first + begin, min(first + begin + (size or each), end))
            count = max(0, own.stop - own.start)
            self._count = count
            if self._reached is not None:
                self._reached.counts = count > 0
            yield ForwardPart(own, count) if count else ForwardPart(slice(0, 1), 0)

    def collect_gradients(self) -> None:
        """Hand the gradients, summed over the ranks, from the model to the rows; what no rank has reached has none."""
        reached = None if self._reached is None else self._reached.anywhere(self.group)
        for index, (item, parameter) in enumerate(zip(self.trainables, self._sharded, strict=False)):
            gradient, parameter.grad = parameter.grad, None
            if isinstance(gradient, DTensor) and (reached is None or reached[index]):
                item.parameter.grad = gradient.to_local()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of numbers over the windows that all ranks put through now, given this rank's mean."""
        weighted = torch.cat([values * self._count, values.new_full((1,), self._count)])
        (total,) = self.group.sum([weighted])
        assert total is not None
        return total[:-1] / total[-1]

    def sums(self, *values: float) -> list[float]:
        """Add up numbers over the ranks."""
        (total,) = self.group.sum([torch.tensor(values, dtype=torch.float64)])
        assert total is not None
        return [float(value) for value in total]

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Run forward passes without gradients: what lies outside the blocks is rows again afterwards."""
        yield
        if isinstance(self.model, FSDPModule):
            self.model.reshard()

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a training state with whole tensors in the place of rows, on the host; on ranks but the first none."""
        wholes = dict(tensors)
        for name, tensor in tensors.items():
            if (shape := self._shape(name)) is not None:
                joined = join_rows(tensor, shape, self.group)
                if joined is None:
                    del wholes[name]
                else:
                    wholes[name] = joined
        return wholes

    def rows(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a training state with this rank's rows in the place of whole tensors."""
        return {
            name: tensor if self._shape(name) is None else own_rows(tensor, self.group)
            for name, tensor in tensors.items()
        }

    def _shape(self, name: str) -> torch.Size | None:
        """The whole shape of an entry of a state that is in rows: AdamW's count of steps is not."""
        kind, _, item = name.partition(":")
        return None if kind == "step" else self._shapes.get(item)


def _shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Cut what a module has of its own, and what its parts have not cut yet, into rows."""
    for adapter in module.modules():
        if isinstance(adapter, Adapter) and "bits" in adapter._buffers:
            bits = adapter.get_buffer("bits")
            del adapter.bits
            adapter.register_parameter("bits", nn.Parameter(bits, requires_grad=False))
    module.register_forward_hook(_without_views)
    sharded: FSDPModule = fully_shard(module, mesh=mesh)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(enable=True)  # gloo knows no other one
    sharded.set_reduce_scatter_unused_params(True, recurse=False)  # an expert may get tokens on one rank alone


def _without_views(_module: nn.Module, _args: object, output: object) -> object:
    """Copy what a block of some families gives as a view: gradients of one may miss FSDP's hook on it."""
    if isinstance(output, torch.Tensor):
        return output.clone() if output._base is not None else output
    return tuple(_without_views(_module, _args, each) for each in output) if type(output) is tuple else output


def _rows(item: Trainable, parameter: nn.Parameter, group: RankGroup) -> Trainable:
    assert isinstance(parameter, DTensor)
    pruned = None if item.pruned is None else own_rows(item.pruned, group).clone()
    return replace(item, parameter=nn.Parameter(parameter.to_local().detach()), pruned=pruned)


class _Reached:
    """Which experts the tokens of a step have reached: AdamW lets alone what has no gradient, also of several ranks."""

    def __init__(self, owners: Mapping[int, Sequence[int]], modules: Sequence[nn.Module], count: int) -> None:
        self._owners, self._count = owners, count
        self._seen: set[int] = set()
        self.counts = True
        """Whether what is seen now is of the step."""
        for module in modules:
            module.register_forward_hook(self._see)

    @classmethod
    def of(cls, model: nn.Module, owned_names: Sequence[str]) -> _Reached | None:
        """Watch the modules of experts that own trained parameters; None where there are none."""
        inside = {
            id(module)
            for experts in model.modules()
            if isinstance(experts, SeparateExperts)
            for module in experts.modules()
        }
        modules = [model.get_submodule(name.rpartition(".")[0]) for name in owned_names]
        owners: dict[int, list[int]] = {}
        for index, module in enumerate(modules):
            if id(module) in inside:
                owners.setdefault(id(module), []).append(index)
        watched = {id(module): module for module in modules if id(module) in owners}
        return cls(owners, list(watched.values()), len(owned_names)) if owners else None

    def _see(self, module: nn.Module, *_: object) -> None:
        if self.counts and torch.is_grad_enabled():
            self._seen.add(id(module))

    def anywhere(self, group: RankGroup) -> list[bool]:
        """Return for every trained parameter whether it has a gradient on any rank, and begin anew."""
        seen = torch.ones(self._count)
        for module, indices in self._owners.items():
            seen[list(indices)] = float(module in self._seen)
        self._seen.clear()
        (total,) = group.sum([seen])
        assert total is not None
        return [bool(value) for value in total]
