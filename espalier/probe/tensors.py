"""Check the tensors of the files against those that the configuration requires."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from espalier.errors import UnsafeSource, UnsupportedArchitecture
from espalier.families import Family, Shapes
from espalier.probe.head import embeddings
from espalier.probe.headers import WEIGHT_BYTES, Tensor

BUFFERS = re.compile(r"\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)$")
"""Constants that old checkpoints carry and nobody reads: angles of positions, triangles of attention."""

MAX_NAMES = 2**16
"""Tensors of a model: the largest public mixture of an accepted family has 37,000."""


@dataclass(frozen=True)
class Expected:
    """The parameters of a configuration by name, and what may stand for them in the files."""

    family: Family

    @cached_property
    def own(self) -> Shapes:
        """Every parameter but a tied head."""
        shapes = self.family.outer_shapes() | self._in_blocks(self.family.block_shapes)
        return shapes if self.family.tie_word_embeddings else shapes | self.family.head_shapes()

    @cached_property
    def stacks(self) -> dict[str, tuple[tuple[int, ...], list[str]]]:
        """Tensors that may stand for the linear layers of all experts of a block."""
        return {
            f"{prefix}{name}": (shape, [f"{prefix}{part}" for part in parts])
            for index, prefix in self.blocks()
            for name, (shape, parts) in self.family.stacks(index).items()
        }

    @cached_property
    def allowed(self) -> Shapes:
        """What a file may hold."""
        stacked = {name: shape for name, (shape, _) in self.stacks.items()}
        return self.own | self.family.head_shapes() | stacked

    def blocks(self) -> Iterator[tuple[int, str]]:
        """Yield the index and the name prefix of every block."""
        for index in range(self.family.num_hidden_layers):
            yield index, f"{self.family.blocks}.{index}."

    def _in_blocks(self, shapes_of: Callable[[int], Shapes]) -> Shapes:
        return {f"{prefix}{name}": shape for index, prefix in self.blocks() for name, shape in shapes_of(index).items()}


def match(tensors: dict[str, Tensor], expected: Expected) -> None:
    """Refuse a model whose tensors are not exactly those that its configuration requires."""
    by_parameter: dict[str, Tensor] = {}
    for tensor in tensors.values():
        parameter = expected.family.parameter(tensor.name)
        if parameter in by_parameter:
            raise UnsafeSource(
                f"Tensors {by_parameter[parameter].name} and {tensor.name} are the same.", module=tensor.name
            )
        by_parameter[parameter] = tensor
    _count_blocks(by_parameter, expected.family)
    _count(by_parameter, expected.family)
    for name, (_, parts) in expected.stacks.items():
        if name in by_parameter and any(part in by_parameter for part in parts):
            raise UnsafeSource(f"Tensor {by_parameter[name].name} is there twice: whole and in parts.", module=name)
    (head,) = expected.family.head_shapes()
    if expected.family.tie_word_embeddings and head in by_parameter:
        by_parameter.setdefault(
            embeddings(expected.family), by_parameter[head]
        )  # either is tied to the one that is there
    whole = {part for name, (_, parts) in expected.stacks.items() if name in by_parameter for part in parts}
    for name in expected.own:
        if name not in by_parameter and name not in whole:
            kind = expected.family.model_type
            hint = "Where the head is the embeddings, config.json says `tie_word_embeddings: true`."
            raise UnsafeSource(
                f"Tensor {name} is missing: a {kind} model of this configuration has one.",
                hint=hint if name == head else "",
                module=name,
            )
    for name, tensor in by_parameter.items():
        _fits(tensor, expected.allowed.get(name), expected.family.model_type)


def _fits(tensor: Tensor, shape: tuple[int, ...] | None, kind: str) -> None:
    if tensor.dtype not in WEIGHT_BYTES:
        if shape is not None:
            raise UnsafeSource(
                f"Tensor {tensor.name} is {tensor.dtype}; weights are {', '.join(WEIGHT_BYTES)}.", module=tensor.name
            )
    elif shape is None:
        if not BUFFERS.search(tensor.name):
            raise UnsafeSource(
                f"Tensor {tensor.name} does not belong to a {kind} model of this config.json.", module=tensor.name
            )
    elif tensor.shape != shape:
        raise UnsafeSource(
            f"Tensor {tensor.name} has shape {list(tensor.shape)} where config.json tells {list(shape)}.",
            module=tensor.name,
        )


def refuse_many(family: Family) -> None:
    """Refuse a configuration of more tensors than are ever listed."""
    if family.num_tensors() > MAX_NAMES:
        raise UnsupportedArchitecture(
            f"config.json tells of {family.num_tensors():,} tensors; models of up to {MAX_NAMES:,} are read.",
            module="config.json",
        )


def _count(parameters: Iterable[str], family: Family) -> None:
    """Compare the number of tensors with the expected one before listing any; a stack counts as many."""
    here = sum(map(family.stands_for, parameters))
    if here < family.num_tensors():
        raise UnsafeSource(
            f"Tensors are missing: the files hold {here:,} at most where the blocks of this config.json have "
            f"{family.num_tensors():,}.",
            module="config.json",
        )


def _count_blocks(parameters: Iterable[str], family: Family) -> None:
    block = re.compile(re.escape(family.blocks) + r"\.(\d{1,6})\.")
    blocks = {int(match[1]) for match in map(block.match, parameters) if match}
    if not blocks:
        raise UnsupportedArchitecture(f"The weights have no {family.blocks}: not a {family.architecture} checkpoint.")
    if blocks != set(range(family.num_hidden_layers)):
        raise UnsafeSource(f"The weights have {len(blocks)} blocks where config.json tells {family.num_hidden_layers}.")
