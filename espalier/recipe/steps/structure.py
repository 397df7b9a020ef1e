"""Structured prune steps: remove blocks, neurons, head groups or experts; the result is a smaller stock model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import BeforeValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from espalier.discovery import discover
from espalier.methods.structured import BlockCriterion, ExpertCriterion, UnitCriterion, UnitKind, WidthUpdate
from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import is_percent, refusing_if, refusing_tags

BLOCK_CRITERIA: dict[str, type[BlockCriterion]] = discover("espalier.methods.depth", BlockCriterion, tag="method")  # type: ignore[type-abstract]
UNIT_CRITERIA: dict[str, type[UnitCriterion]] = discover("espalier.methods.width", UnitCriterion, tag="method")  # type: ignore[type-abstract]

EXPERT_CRITERIA: dict[str, type[ExpertCriterion]] = discover("espalier.methods.experts", ExpertCriterion, tag="method")  # type: ignore[type-abstract]
OF_PATTERN: dict[str, dict[str, Any]] = {
    "depth": BLOCK_CRITERIA,
    "neurons": UNIT_CRITERIA,
    "kv_groups": UNIT_CRITERIA,
    "experts": EXPERT_CRITERIA,
}
"""The methods of every pattern that removes whole parts."""

Share = Annotated[float, Field(ge=0, lt=1), refusing_if(is_percent, "a share in percent", instead="0.5 for 50 %")]
UNBUILT_PATTERNS: Final = ("half_blocks",)
_HALVES = ("attention", "mlp", "submodules")
"""What other tools remove by itself."""


def refuse_halves(value: object) -> object:
    """Refuse to remove one half of a block: the result would need code of its own to load."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind in _HALVES:
        why = (
            "no stock configuration of a supported family has a block without its attention or its feed-forward net: "
            "choose `depth` for whole blocks, `neurons` or `kv_groups` for narrower halves"
        )
        raise PydanticCustomError("no_stock_configuration", "{why}", {"why": why, "at": "kind"})
    return value


_NO_HALVES, _NOT_YET = BeforeValidator(refuse_halves), refusing_tags("kind", *UNBUILT_PATTERNS)


class Depth(Spec):
    """Whole blocks go; the model has fewer of them."""

    kind: Literal["depth"] = "depth"
    count: int | None = Field(None, ge=0, le=100_000, description="Blocks that go; or give `sparsity`, their share.")


class Width(Spec):
    """Parts of every block go, equally many in each, so that a stock configuration can say so."""

    kind: UnitKind = "neurons"
    multiple_of: int = Field(1, ge=1, le=65_536, description="What stays is rounded to a multiple of it.")

    def kept(self, units: int, *, sparsity: float) -> int:
        """Return how many units of a block stay: the multiple nearest to it, at least one; all where none go."""
        if sparsity == 0:
            return units
        nearest = round((1 - sparsity) * units / self.multiple_of) * self.multiple_of
        return min(units, max(nearest, self.multiple_of))


class Experts(Width):
    """Whole experts of every mixture go, equally many in each; the router gets as much narrower."""

    kind: Literal["experts"] = "experts"  # type: ignore[assignment]


class DepthFields(Spec):
    """The fields of every step that removes blocks."""

    sparsity: Share | None = Field(None, description="Share of the blocks that go.")
    pattern: Annotated[Depth, _NO_HALVES, _NOT_YET] = Depth()
    replace: Literal["least_squares"] | None = Field(
        None, description="A linear map in the place of every run of removed blocks, merged into the matrix before it."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> DepthFields:
        if (self.sparsity is None) == (self.pattern.count is None):
            raise PydanticCustomError(
                "missing_sparsity", "give `sparsity` or `pattern.count`, and not both", {"at": "sparsity"}
            )
        return self

    @property
    def label(self) -> str:
        """The amount to remove as text, for the name of a job."""
        return f"{self.sparsity:.0%}" if self.sparsity is not None else f"{self.pattern.count} blocks"

    def gone(self, blocks: int) -> int:
        """Return how many of the model's blocks are removed."""
        return self.pattern.count if self.pattern.count is not None else round((self.sparsity or 0.0) * blocks)


class WidthFields(Spec):
    """The fields of every step that removes units."""

    sparsity: Share = Field(description="Share of the units of every block that go.")
    pattern: Annotated[Width, _NO_HALVES, _NOT_YET] = Width()
    update: WidthUpdate | None = Field(None, description="Default: the criterion's own.")

    @property
    def label(self) -> str:
        """The amount to remove as text, for the name of a job."""
        return f"{self.sparsity:.0%}"


class ExpertFields(Spec):
    """The fields of every step that removes experts."""

    sparsity: Share = Field(description="Share of the experts of every block that go.")
    pattern: Annotated[Experts, _NO_HALVES, _NOT_YET] = Experts()

    @property
    def label(self) -> str:
        """The amount to remove as text, for the name of a job."""
        return f"{self.sparsity:.0%}"


if TYPE_CHECKING:

    class DepthStep(DepthFields, BlockCriterion):
        """What the type checker sees of a step that removes blocks."""

        method: str = ""

    class WidthStep(WidthFields, UnitCriterion):
        """What the type checker sees of a step that removes units."""

        method: str = ""

    class ExpertStep(ExpertFields, ExpertCriterion):
        """What the type checker sees of a step that removes experts."""

        method: str = ""

else:
    DepthStep, WidthStep, ExpertStep = DepthFields, WidthFields, ExpertFields

StructureStep = DepthStep | WidthStep | ExpertStep


def _steps(criteria: dict[str, Any], fields: type[Spec]) -> dict[str, Any]:
    return {
        name: create_model(
            f"{criterion.__name__}Prune", __base__=cast(Any, (fields, criterion)), __doc__=criterion.__doc__
        )
        for name, criterion in criteria.items()
    }


STRUCTURE_STEPS: dict[str, Any] = (
    _steps(BLOCK_CRITERIA, DepthFields) | _steps(UNIT_CRITERIA, WidthFields) | _steps(EXPERT_CRITERIA, ExpertFields)
)
"""Every step by its method."""
