"""The shapes of a model that decide memory and work; headers and the model itself give the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MapShape:
    """One linear map."""

    name: str
    """Within its block, `mlp.up_proj`; maps of one module with equally many inputs share their Gram matrix."""
    outputs: int
    inputs: int

    @property
    def weights(self) -> int:
        """Count its weights."""
        return self.outputs * self.inputs

    @property
    def edges(self) -> int:
        """Count its inputs and outputs: activations of a token, or the numbers of an adapter of rank one."""
        return self.outputs + self.inputs


@dataclass(frozen=True)
class BlockShape:
    """One block: its linear maps in order, and all of its parameters."""

    maps: tuple[MapShape, ...]
    parameters: int
    """Norms, biases and routers included."""

    @property
    def weights(self) -> int:
        """Count the weights of its linear maps."""
        return sum(each.weights for each in self.maps)


@dataclass(frozen=True)
class ModelShape:
    """A model in the numbers that memory and work depend on."""

    kinds: tuple[BlockShape, ...]
    """One block of every kind: hundreds are alike, with thousands of experts."""
    num_blocks: int
    inside: int
    """Parameters of all blocks."""
    weights: int
    """Weights of all linear maps in the blocks."""
    edges: int
    """Inputs and outputs of all of them: what a token keeps for its gradients, or one rank of adapters on each."""
    squares: int
    """Numbers of a Gram matrix for each of them."""
    parameters: int
    """Of the whole model, tied ones once."""
    vocabulary: int
    width: int
    """Of a hidden state."""
    default_length: int
    """Tokens of a window whose length a request by hand leaves out."""

    @classmethod
    def of(
        cls, blocks: Iterable[BlockShape], *, parameters: int, vocabulary: int, width: int, default_length: int
    ) -> ModelShape:
        """Sum up the blocks of a model."""
        every = list(blocks)
        maps = [each for block in every for each in block.maps]
        return cls(
            kinds=tuple(dict.fromkeys(every)),
            num_blocks=len(every),
            inside=sum(block.parameters for block in every),
            weights=sum(each.weights for each in maps),
            edges=sum(each.edges for each in maps),
            squares=sum(each.inputs**2 for each in maps),
            parameters=parameters,
            vocabulary=vocabulary,
            width=width,
            default_length=default_length,
        )

    @property
    def outer(self) -> int:
        """Count the parameters outside the blocks: embeddings, head and the last norm."""
        return self.parameters - self.inside
