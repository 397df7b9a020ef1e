"""Statistics of calibration: a method names those that it reads, and exactly these are gathered.

Shapes: T tokens, I inputs, O outputs of a linear map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

Need = Literal["none", "norms", "gram"]
"""The size of a statistic of a matrix's inputs: nothing, a number per input, or a number per pair of inputs."""

NEEDS: tuple[Need, ...] = ("none", "norms", "gram")
"""From the least to the most."""


class Statistic(ABC):
    """A statistic that calibration gathers for one matrix; one file in `espalier/methods/statistics` each."""

    name: ClassVar[str]
    """Its name in the files of stored statistics."""
    size: ClassVar[Need] = "norms"


class InputStatistic(Statistic):
    """A running statistic of a matrix's inputs; matrices that read the same tensor share one."""

    implies: ClassVar[Mapping[type[InputStatistic], Callable[[Tensor], Tensor]]] = {}
    """Statistics that follow from this one's value: they are not gathered beside it."""

    total: Tensor | None = None
    """The sum so far; not finite where an input was not."""

    @abstractmethod
    def add(self, input_TI: Tensor) -> None:
        """Count a batch of tokens, perhaps an empty one."""

    @abstractmethod
    def value(self, *, routed: bool) -> Tensor:
        """Return the statistic; `routed`: of an expert, which may have seen few tokens or none."""


class LinearMap(Protocol):
    """Facts about a linear layer of a block, for a statistic."""

    @property
    def name(self) -> str:
        """Full module name."""

    @property
    def local(self) -> str:
        """Module name within the block."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""


AnyMap = TypeVar("AnyMap", bound=LinearMap)


class ReaderStatistic(Statistic):
    """A statistic of the input of another matrix, which reads what this one's outputs become."""

    of: ClassVar[type[InputStatistic]]
    """The statistic gathered at that input."""
    absent: ClassVar[tuple[str, str]]
    """Code and text of the warning for a block (`block`) without such readers; `method` reads them."""

    @classmethod
    @abstractmethod
    def readers(cls, block: nn.Module, matrices: Sequence[AnyMap]) -> dict[str, AnyMap]:
        """Map the name of a matrix to the matrix that reads its outputs, for those of a block that have one."""

    @classmethod
    @abstractmethod
    def at_outputs(cls, value: Tensor, *, num_outputs: int) -> Tensor:
        """Expand the statistic of the reader's input to the outputs of a matrix."""


Declared = tuple[type[Statistic], ...]
"""The statistics that a method reads."""
Statistics = Mapping[type[Statistic], "Tensor"]
"""The statistics of one matrix, by kind."""


def gathered(declared: Iterable[type[Statistic]]) -> list[type[InputStatistic]]:
    """Return the input statistics from which all of these follow, in order of their names."""
    inputs: set[Any] = {kind.of if issubclass(kind, ReaderStatistic) else kind for kind in declared}
    implied = {follows for kind in inputs for follows in kind.implies}
    return sorted(inputs - implied, key=lambda kind: str(kind.name))


def readers_among(declared: Iterable[type[Statistic]]) -> list[type[ReaderStatistic]]:
    """Select the statistics that are taken at the input of another matrix."""
    return [kind for kind in dict.fromkeys(declared) if issubclass(kind, ReaderStatistic)]


def with_implied(values: Mapping[Any, Tensor]) -> Statistics:
    """Add what follows from the statistics that were gathered."""
    known = dict(values)
    for kind, value in values.items():
        known |= {follows: derive(value) for follows, derive in kind.implies.items()}
    return known


def need_of(declared: Iterable[type[Statistic]]) -> Need:
    """Return the largest size among statistics."""
    return max((kind.size for kind in declared), key=NEEDS.index, default="none")
