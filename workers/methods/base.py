"""What a criterion and a pattern are; declarations that load without torch.

Shapes: O outputs, I inputs of a linear map, T tokens. A mask is boolean, True = keep.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch as torch  # noqa: PLC0414 (re-exported)
else:

    class _Lazy:
        """The one sanctioned way to torch from a declaration: imported at the first use of an attribute."""

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(importlib.import_module("torch"), name)

    torch = _Lazy()

Need = Literal["none", "norms", "gram"]
"""What a method reads of a matrix's calibration inputs: nothing, the L2 norm per input, or G = X^T X."""

Cost = Literal["free", "low", "medium", "high"]


@dataclass(frozen=True)
class InputStatistics:
    """What calibration saw at the input of one matrix; only what some method asked for is there."""

    tokens: int
    norm_I: torch.Tensor | None = None
    """L2 norm of every input over all tokens, float64."""
    gram_II: torch.Tensor | None = None
    """X^T X, float32."""


class Method(BaseModel, ABC):
    """Parameters and documentation that every method declares; strict and frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    summary: ClassVar[str]
    """One sentence for people who choose."""
    paper: ClassVar[str]
    """Where the formula comes from."""
    cost: ClassVar[Cost] = "free"
    constraints: ClassVar[tuple[str, ...]] = ()
    """What a model must have for it, for people who choose."""


class Criterion(Method):
    """Scores weights: the lowest scores are pruned. A subclass sets `method: Literal["name"] = "name"`."""

    needs: ClassVar[Need] = "none"
    seeded: ClassVar[bool] = False
    """True when the score draws random numbers."""

    @abstractmethod
    def score(
        self, weight_OI: torch.Tensor, statistics: InputStatistics, *, generator: torch.Generator
    ) -> torch.Tensor:
        """Return scores of shape (O, I), float32 or float64, never negative; `weight_OI` is float32."""


class Pattern(Method):
    """Turns scores into a mask. A subclass sets `kind: Literal["name"] = "name"`."""

    @property
    def spans_model(self) -> bool:
        """True when one budget holds over all matrices together."""
        return False

    @abstractmethod
    def label(self) -> str:
        """Return the short name that stands in the row of a matrix."""

    def implied_sparsity(self) -> float | None:
        """The share pruned that the pattern itself dictates, if it does."""
        return None

    def refusal(self, num_inputs: int) -> str | None:
        """Why a matrix with so many inputs cannot carry the pattern; None when it can."""
        return None

    @abstractmethod
    def keep(self, score_OI: torch.Tensor, *, sparsity: float) -> torch.Tensor:
        """Return the mask (O, I), True = keep; of equal scores the lower input index is pruned first."""


Masks = Mapping[str, "torch.Tensor"]
