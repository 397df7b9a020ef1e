"""The prune step: one criterion with its parameters beside it, a sparsity, a pattern, a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast

from pydantic import Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from app.discovery import discover
from app.specs.base import Spec, Unbuilt, refusing, refusing_tags
from app.specs.steps import Targets
from workers.methods.base import Criterion, Pattern

CRITERIA: dict[str, type[Criterion]] = discover("workers.methods.criteria", Criterion, tag="method")  # type: ignore[type-abstract]
PATTERNS: dict[str, type[Pattern]] = discover("workers.methods.patterns", Pattern, tag="kind")  # type: ignore[type-abstract]

_LATER_METHODS = {"ria", "dass", "sparsegpt", "lamp", "block_influence", "angular", "perplexity", "flap", "reap"}
_LATER_PATTERNS = {"group", "tiles", "cs256", "depth", "neurons", "kv_groups", "experts"}


if TYPE_CHECKING:
    AnyPattern = Pattern
else:
    AnyPattern = Annotated[
        Union[tuple(PATTERNS.values())],  # noqa: UP007
        Field(discriminator="kind"),
        refusing_tags("kind", *_LATER_PATTERNS - set(PATTERNS)),
    ]


class UniformBudget(Spec):
    """Every matrix gets the requested sparsity."""

    kind: Annotated[Literal["uniform"], refusing("owl", "lamp", "erdos_renyi", "per_layer")] = "uniform"


class NoUpdate(Spec):
    """The kept weights stay as they are."""

    kind: Annotated[Literal["none"], refusing("sparsegpt", "least_squares", "admm", "alps", "awp", "auto")] = "none"


class PruneFields(Spec):
    """The fields that every criterion shares."""

    sparsity: float | None = Field(
        None, ge=0, lt=1, description="Share pruned; may be left out where the pattern tells."
    )
    pattern: AnyPattern = PATTERNS["unstructured"]()
    budget: UniformBudget = UniformBudget()
    optimizer: Unbuilt = None
    update: NoUpdate = NoUpdate()
    targets: Targets = Targets()

    @model_validator(mode="after")
    def _sparsity_and_pattern_agree(self) -> PruneFields:
        implied = self.pattern.implied_sparsity()
        if self.sparsity is None and implied is None:
            raise PydanticCustomError(
                "missing_sparsity", "`sparsity` is required with this pattern", {"at": "sparsity"}
            )
        if self.sparsity is not None and implied is not None and abs(self.sparsity - implied) > 1e-6:
            raise PydanticCustomError(
                "contradictory_sparsity",
                "the pattern prunes {implied}; leave `sparsity` out or give that value",
                {"implied": implied, "at": "sparsity"},
            )
        return self

    @property
    def share(self) -> float:
        """The share pruned, from the request or from the pattern."""
        implied = self.pattern.implied_sparsity()
        return implied if implied is not None else self.sparsity or 0.0


if TYPE_CHECKING:

    class PruneStep(PruneFields, Criterion):
        """What the type checker sees of a step: the shared fields and the criterion are one object."""

        method: str = ""

else:
    PruneStep = PruneFields


def _step(criterion: type[Criterion]) -> type[PruneStep]:
    bases: Any = (PruneFields, criterion)
    step: Any = create_model(f"{criterion.__name__}Prune", __base__=bases, __doc__=criterion.__doc__)
    return cast(type[PruneStep], step)


STEPS: dict[str, type[PruneStep]] = {name: _step(criterion) for name, criterion in CRITERIA.items()}


if TYPE_CHECKING:
    Prune = PruneStep
else:
    Prune = Annotated[
        Union[tuple(STEPS.values())],  # noqa: UP007
        Field(discriminator="method"),
        refusing_tags("method", *_LATER_METHODS - set(CRITERIA)),
    ]
