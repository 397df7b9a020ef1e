"""Base classes of the five axes of pruning: criterion, budget, pattern, mask optimizer, solver.

Shapes: O outputs, I inputs of a linear map, T tokens. A mask is boolean, True = keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from espalier.methods.factorisations import Factorisations
from espalier.methods.statistic import Declared, Statistics
from espalier.methods.statistics.gram import Gram

if TYPE_CHECKING:
    import torch

Cost = Literal["free", "low", "medium", "high"]


@dataclass(frozen=True)
class MatrixFacts:
    """Facts about one matrix for a budget, before anything is pruned."""

    name: str
    block: int
    shape: tuple[int, int]
    """(outputs, inputs)."""
    weight: Callable[[], torch.Tensor] | None = None
    """Loads the dense weight (O, I) as float32; None where only names and shapes are known."""
    statistics: Statistics = field(default_factory=dict)
    """The statistics that the budget declares, on the dense model's activations."""

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    def load(self) -> torch.Tensor:
        """Load the dense weight (O, I) as float32."""
        assert self.weight is not None
        return self.weight()


@dataclass(frozen=True)
class LayerProblem:
    """One matrix as a criterion sees it."""

    weight_OI: torch.Tensor
    """float32."""
    statistics: Statistics
    """At least what the method declares; a statistic of another matrix's input only where there is such a matrix."""
    generator: torch.Generator
    """On the CPU, seeded for this matrix."""
    factorisations: Factorisations = field(default_factory=Factorisations, kw_only=True)
    """Of its Gram matrix; shared by the matrices that read the same input."""


@dataclass(frozen=True)
class MaskProblem(LayerProblem):
    """One matrix whose weights have been scored and chosen, as mask optimizers and solvers see it."""

    mask_OI: torch.Tensor
    score_OI: torch.Tensor
    """The scores behind the mask; -inf marks weights that an earlier step pruned, which stay pruned."""
    pattern: Pattern
    sparsity: float
    """The fraction of this matrix that the mask prunes."""


@dataclass(frozen=True)
class Refit:
    """The result of a solver: float32 weights, zero wherever the mask (True = keep) is False."""

    weight_OI: torch.Tensor
    mask_OI: torch.Tensor


@dataclass(frozen=True)
class Axes:
    """The choices of one prune step, for methods that say with which of them they do not go."""

    criterion: Criterion
    pattern: Pattern
    budget: Budget
    optimizer: MaskOptimizer | None
    solver: Solver | None


class Method(BaseModel, ABC):
    """Parameters and documentation that every method declares; strict and frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    summary: ClassVar[str]
    """One sentence for people who choose."""
    paper: ClassVar[str]
    """The source of the formula."""
    cost: ClassVar[Cost] = "free"
    statistics: ClassVar[Declared] = ()
    """The statistics of a matrix that it reads: exactly these are gathered."""
    constraints: ClassVar[tuple[str, ...]] = ()
    """Requirements on the model, for people who choose."""
    example: ClassVar[Mapping[str, Any]] = {}
    """Values for parameters that have no default."""

    def incompatible_with(self, axes: Axes) -> str | None:
        """Return why this method does not go with the other choices of a step, and the fix; None when it does."""
        return None


class Criterion(Method):
    """Scores weights: the lowest scores are pruned. A subclass sets `method: Literal["name"] = "name"`."""

    seeded: ClassVar[bool] = False
    """True when the score draws random numbers."""
    own_update: ClassVar[str | None] = None
    """The solver that belongs to it, taken where the step asks for no update."""

    @abstractmethod
    def score(self, problem: LayerProblem) -> torch.Tensor:
        """Return scores of shape (O, I), float32 or float64, never negative."""


class Pattern(Method):
    """Turns scores into a mask. A subclass sets `kind: Literal["name"] = "name"`."""

    @property
    def spans_model(self) -> bool:
        """True when one budget holds over all matrices together."""
        return False

    @abstractmethod
    def label(self) -> str:
        """Return the short name that stands in the row of a matrix."""

    def label_at(self, sparsity: float) -> str:
        """Return the name in the row of a matrix to which a budget gave a sparsity."""
        return self.label()

    def implied_sparsity(self) -> float | None:
        """Return the sparsity that the pattern itself dictates, if it does."""
        return None

    def refusal(self, num_inputs: int) -> str | None:
        """Return why a matrix with so many inputs cannot carry the pattern; None when it can."""
        return None

    def line(self, shape: tuple[int, int]) -> int | None:
        """Return how many weights in row-major order form a line, in which any may replace any other.

        A line has a budget of its own. None when whole units go together.
        """
        return None

    def ceiling(self) -> float:
        """Return the highest sparsity that a matrix can have."""
        return 1.0

    def levels(self) -> int | None:
        """Return n where sparsities are multiples of 1/n; None when any is possible up to rounding."""
        return None

    def step(self, shape: tuple[int, int]) -> float:
        """Return the rounding: sparsities of a matrix (O, I) are at most half of this away from the one requested."""
        return 1 / (shape[0] * shape[1])

    @abstractmethod
    def keep(self, score_OI: torch.Tensor, *, sparsity: float) -> torch.Tensor:
        """Return the mask (O, I), True = keep; of equal scores the lower input index is pruned first."""


class Budget(Method):
    """Spreads the sparsity over the matrices. A subclass sets `kind: Literal["name"] = "name"`.

    The statistics that it declares take a pass of the text through the dense model before pruning.
    """

    def refusal(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> str | None:
        """Return why the budget does not fit matrices of these names, blocks and shapes; None when it does."""
        return None

    @abstractmethod
    def sparsities(self, sparsity: float, matrices: Sequence[MatrixFacts]) -> dict[str, float]:
        """Return the sparsity of every matrix, in [0, 1); their mean over the weights is `sparsity`."""


class MaskOptimizer(Method):
    """Improves a mask while the weights stay. A subclass sets `kind: Literal["name"] = "name"`."""

    statistics: ClassVar[Declared] = (Gram,)

    @abstractmethod
    def improve(self, problem: MaskProblem) -> torch.Tensor:
        """Return a mask of the same pattern and budget whose ||X (W - M*W)^T||^2 is never above the given one's."""


class Solver(Method):
    """Refits the kept weights of one matrix. A subclass sets `kind: Literal["name"] = "name"`."""

    statistics: ClassVar[Declared] = (Gram,)
    chooses_mask: ClassVar[bool] = False
    """True when it finds mask and weights together, starting from the mask given."""

    @property
    def moves_mask(self) -> bool:
        """Whether the solver, with these parameters, may return another mask than the one given."""
        return self.chooses_mask

    def for_axes(self, axes: Axes) -> Solver:
        """Return the solver as it works with the other choices of a step."""
        return self

    def solver_for(self, shape: tuple[int, int], *, sparsity: float) -> Solver:
        """Return the solver that refits a matrix of this shape (O, I): another one when this one only selects."""
        return self

    @abstractmethod
    def solve(self, problem: MaskProblem) -> Refit:
        """Return weights (O, I) float32 and their mask; the mask given unless `chooses_mask`."""


Masks = Mapping[str, "torch.Tensor"]
