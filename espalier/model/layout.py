"""Layout of a model: its blocks and linear layers, found by structure and not by a list of model names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from espalier.errors import UnsupportedArchitectureError
from espalier.model.fused_experts import SeparateExperts


@dataclass(frozen=True)
class Matrix:
    """One linear map inside a block."""

    name: str
    """Full module name, `model.layers.0.mlp.up_proj`."""
    block: int
    local: str
    """Module name within the block, `mlp.up_proj`."""
    shape: tuple[int, int]
    """(outputs, inputs)."""
    transposed: bool
    """True for Conv1D, which stores (inputs, outputs)."""
    tensor: str
    """Name of the weight in the files."""
    routed: bool = False
    """True for a map of an expert, which reads only the tokens that are routed to it: perhaps none."""

    def view(self, weight: torch.Tensor) -> torch.Tensor:
        """View a stored weight as (O, I), and back: the view is its own inverse."""
        return weight.T if self.transposed else weight


@dataclass(frozen=True)
class Block:
    """One of the equal parts that the hidden states pass through."""

    index: int
    name: str
    """Full module name, `model.layers.0`."""
    matrices: tuple[Matrix, ...]
    tensors: Mapping[str, str]
    """Parameter (or stored buffer) name within the block -> name in the files."""


@dataclass(frozen=True)
class Layout:
    """All blocks of a model in the order of the forward pass."""

    blocks: tuple[Block, ...]

    @property
    def matrices(self) -> list[Matrix]:
        """Every linear map inside the blocks, in order."""
        return [matrix for block in self.blocks for matrix in block.matrices]

    @cached_property
    def by_name(self) -> dict[str, Matrix]:
        """Every linear map inside the blocks, by its full name."""
        return {matrix.name: matrix for matrix in self.matrices}

    def tensors_of(self, index: int) -> list[str]:
        """Return the names in the files of a block's tensors; none behind the last block."""
        return list(dict.fromkeys(self.blocks[index].tensors.values())) if index < len(self.blocks) else []

    @classmethod
    def of(cls, model: nn.Module, tensors: Mapping[str, str]) -> Layout:
        """Find the blocks of `model`; `tensors` maps its parameter names to names in the files."""
        name, stack = find_stack(model)
        inside: list[dict[str, str]] = [{} for _ in stack]
        for full, tensor in tensors.items():
            if full.startswith(f"{name}."):
                index, _, local = full.removeprefix(f"{name}.").partition(".")
                inside[int(index)][local] = tensor
        return cls(tuple(_block(f"{name}.{index}", index, block, inside[index]) for index, block in enumerate(stack)))


def find_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the outermost module list with the most parameters: the decoder's blocks."""
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            stacks[name] = module
    if not stacks:
        raise UnsupportedArchitectureError(
            "the model has no list of blocks", hint="Use a decoder-only transformer such as Llama, Qwen or OPT."
        )
    name = max(stacks, key=lambda key: sum(parameter.numel() for parameter in stacks[key].parameters()))
    return name, stacks[name]


def is_linear(module: nn.Module) -> bool:
    """Tell whether a module is a plain linear map."""
    return isinstance(module, nn.Linear | Conv1D)


def _block(name: str, index: int, block: nn.Module, tensors: Mapping[str, str]) -> Block:
    matrices = []
    experts = tuple(f"{local}." for local, module in block.named_modules() if isinstance(module, SeparateExperts))
    for local, module in block.named_modules():
        # A map to a single number is a gate: it stays dense, as routers do.
        if isinstance(module, nn.Linear | Conv1D) and min(module.weight.shape) > 1:
            transposed = isinstance(module, Conv1D)
            rows, columns = module.weight.shape
            shape = (columns, rows) if transposed else (rows, columns)
            tensor = tensors[f"{local}.weight"]
            routed = local.startswith(experts)
            matrices.append(Matrix(f"{name}.{local}", index, local, shape, transposed, tensor, routed))
    if not matrices:
        raise UnsupportedArchitectureError(f"{name} holds no linear map", hint="Use a decoder-only transformer.")
    return Block(index, name, tuple(matrices), tensors)
