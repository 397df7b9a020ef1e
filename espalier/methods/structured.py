"""Base classes of structured pruning: criteria of blocks, units and experts. Declarations load without torch.

Shapes: L blocks, N windows, D hidden width, O outputs, I inputs, U units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from espalier.methods.base import Method
from espalier.methods.lazy_torch import torch
from espalier.methods.statistics.gram import add_products

if TYPE_CHECKING:
    from torch import Tensor, device

UnitKind = Literal["neurons", "kv_groups"]
"""Units of a block's halves: of the feed-forward net, of attention."""
PartKind = Literal["depth", UnitKind, "experts"]
"""Removable parts: blocks of the model, or units that every block has equally many of."""
WidthUpdate = Literal["none", "bias_mean", "least_squares"]
"""The compensation for removed units: none, their mean as a bias, or refitted columns."""


@dataclass(frozen=True)
class CalibrationPass:
    """Statistics of one pass of the calibration text through the blocks."""

    influence_L: Tensor
    """1 - mean cosine of what enters and what leaves a block, over all tokens, float64."""
    last_LND: Tensor
    """The last token's hidden state at the entrance of every block, and after the last one: (L + 1, N, D)."""


class BlockEvidence(Protocol):
    """Measurements for a criterion of blocks; those that are not asked for cost nothing."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""

    def calibration_pass(self) -> CalibrationPass:
        """Run one pass of the calibration text."""

    def loss(self, kept: Sequence[int]) -> float:
        """Measure the mean cross entropy of a few calibration windows with only these blocks."""


class BlockCriterion(Method):
    """Chooses whole blocks. A subclass sets `method: Literal["name"] = "name"`."""

    whole_model: ClassVar[bool] = False
    """Whether it measures losses, for which the whole model is in memory; else one block at a time is."""

    @abstractmethod
    def choose(self, evidence: BlockEvidence, *, count: int) -> list[int]:
        """Return the `count` blocks that go, in order; of equals the earlier one goes."""


@dataclass
class Moments:
    """Moments of the input of one linear layer over the calibration text, where its inputs are."""

    sum_I: Tensor
    squares_I: Tensor
    gram_II: Tensor | None
    """X^T X, float32, where a method asked for it."""
    tokens: int = 0

    @classmethod
    def of(cls, width: int, *, gram: bool, device: device | str = "cpu") -> Moments:
        """Begin with nothing seen."""
        zeros = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone(), torch.zeros(width, width, device=device) if gram else None)

    def add(self, input_TI: Tensor) -> None:
        """Count tokens; sums are float64."""
        local_TI = input_TI.to(self.sum_I.device)
        self.sum_I += local_TI.double().sum(dim=0)
        self.squares_I += local_TI.double().square().sum(dim=0)
        if self.gram_II is not None:
            add_products(self.gram_II, local_TI)
        self.tokens += len(local_TI)

    @property
    def mean(self) -> Tensor:
        """E[x] of every input."""
        return self.sum_I / self.tokens

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])^2] of every input."""
        return (self.squares_I / self.tokens - self.mean.square()).clamp_min(0)


@dataclass(frozen=True)
class UnitEvidence:
    """Statistics of one block for a criterion of units; unit u owns `size` columns of the consumer, from `u * size`."""

    weight_OI: Tensor
    """The map that consumes the units, float32."""
    producers: Sequence[Tensor]
    """Squared norms of the rows that produce every unit, one (U,) per map, float64."""
    moments: Moments
    size: int

    def per_unit(self, score_I: Tensor) -> Tensor:
        """Sum over the columns of every unit."""
        return score_I.view(-1, self.size).sum(dim=1)


class UnitCriterion(Method):
    """Chooses units of a block. A subclass sets `method: Literal["name"] = "name"`."""

    reads_gram: ClassVar[bool] = False
    own_update: ClassVar[WidthUpdate] = "none"
    """The update where the step asks for none."""

    @abstractmethod
    def choose(self, evidence: UnitEvidence, *, kept: int) -> Tensor:
        """Return the indices of the `kept` units that stay, in order."""


class UnitScore(UnitCriterion):
    """A criterion that scores every unit by itself."""

    @abstractmethod
    def score(self, evidence: UnitEvidence) -> Tensor:
        """Return scores (U,), float64; the lowest go."""

    def choose(self, evidence: UnitEvidence, *, kept: int) -> Tensor:
        """Keep the highest scores; of equals the lower index goes."""
        order = self.score(evidence).sort(stable=True).indices
        return order[len(order) - kept :].sort().values


@dataclass(frozen=True)
class Routing:
    """Routing statistics of the E experts of one block over the calibration text, float64."""

    tokens_E: Tensor
    """Tokens that reached an expert, int64."""
    weighed_E: Tensor
    """Sum over these tokens of gate weight times the norm of the output."""
    sum_ED: Tensor
    """Sum of the outputs."""
    squares_E: Tensor
    """Sum of their squared norms."""


class ExpertCriterion(Method):
    """Chooses experts. A subclass sets `method: Literal["name"] = "name"`."""

    @abstractmethod
    def score(self, routing: Routing) -> Tensor:
        """Return scores (E,), float64; the lowest go."""

    def choose(self, routing: Routing, *, kept: int) -> Tensor:
        """Return the experts that stay, in order; of equals the lower index goes."""
        order = self.score(routing).sort(stable=True).indices
        return order[len(order) - kept :].sort().values
