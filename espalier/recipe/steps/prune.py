"""The prune step: one criterion with its parameters beside it, a sparsity, and a choice on every other axis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, cast

from pydantic import BeforeValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from espalier.discovery import discover
from espalier.methods.base import Axes, Budget, Criterion, MaskOptimizer, Pattern, Solver
from espalier.methods.statistic import Declared, Need, need_of
from espalier.recipe.base import Spec
from espalier.recipe.expressions import selection
from espalier.recipe.refusals.unbuilt import UnbuiltFlag, is_text, later, refusing_if, refusing_tags
from espalier.recipe.steps.structure import (
    OF_PATTERN,
    STRUCTURE_STEPS,
    UNBUILT_PATTERNS,
    Share,
    StructureStep,
    refuse_halves,
)

CRITERIA: dict[str, type[Criterion]] = discover("espalier.methods.criteria", Criterion, tag="method")  # type: ignore[type-abstract]
PATTERNS: dict[str, type[Pattern]] = discover("espalier.methods.patterns", Pattern, tag="kind")  # type: ignore[type-abstract]
BUDGETS: dict[str, type[Budget]] = discover("espalier.methods.budgets", Budget, tag="kind")  # type: ignore[type-abstract]
OPTIMIZERS: dict[str, type[MaskOptimizer]] = discover("espalier.methods.mask_optimizers", MaskOptimizer, tag="kind")  # type: ignore[type-abstract]
SOLVERS: dict[str, type[Solver]] = discover("espalier.methods.solvers", Solver, tag="kind")  # type: ignore[type-abstract]


MOST_PATTERNS: Final = 8
"""Of a list, in what is sent now; specs that were stored before may have up to 64, and other engines' syntax."""
ModuleRegex = Annotated[str, Field(min_length=1, max_length=200, description="In RE2 syntax.")]
ModuleRegexes = Annotated[list[ModuleRegex], Field(max_length=64, json_schema_extra={"maxItems": MOST_PATTERNS})]


class Targets(Spec):
    """Which linear maps are pruned: regular expressions of RE2, searched in module names.

    They are compiled where a job is admitted or run, and never while a spec is read.
    """

    include: ModuleRegexes = Field([], description="Empty: every linear map inside the blocks.")
    exclude: ModuleRegexes = Field([])
    allow_leftovers: UnbuiltFlag = later("Prune a model whose linear maps are not all understood.", default=False)

    def selects(self, name: str) -> bool:
        """Tell whether a module name is selected; raises BadPattern."""
        return selection(tuple(self.include), tuple(self.exclude)).selects(name)


class NoUpdate(Spec):
    """The kept weights stay as they are, unless the criterion brings an update of its own."""

    kind: Literal["none"] = "none"


def _one_of(tag: str, kinds: dict[str, Any], *later: str, instead: str = "") -> Any:  # noqa: ANN401 - made at run time
    """Return the union of discovered classes, discriminated by their tag; reserved names are refused as such."""
    union: Any = Union[tuple(kinds.values())]  # noqa: UP007
    unbuilt = refusing_tags(tag, *set(later) - set(kinds), instead=instead)
    return Annotated[union, Field(discriminator=tag), unbuilt]


def _parts_have_methods_of_their_own(value: object) -> object:
    refuse_halves(value)
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in OF_PATTERN:
        why = f"`{kind}` is a pattern of {', '.join(OF_PATTERN[kind])}: choose one of these methods"
        raise PydanticCustomError("does_not_combine", "{why}", {"why": why, "at": "kind"})
    return value


if TYPE_CHECKING:
    AnyPattern = Pattern
    AnyBudget = Budget
    AnyOptimizer = MaskOptimizer | None
    AnyUpdate = NoUpdate | Solver
else:
    AnyPattern = Annotated[
        _one_of("kind", PATTERNS, *UNBUILT_PATTERNS),
        BeforeValidator(_parts_have_methods_of_their_own),
        refusing_if(is_text, "a pattern by its name alone", instead='{"kind": "nm", "n": 2, "m": 4}'),
    ]
    AnyBudget = _one_of("kind", BUDGETS, "dynamic_programming", "evolution", "sensitivity")
    AnyOptimizer = _one_of("kind", OPTIMIZERS) | None
    AnyUpdate = Annotated[
        _one_of("kind", {"none": NoUpdate, **SOLVERS}),
        refusing_if(is_text, "an update by its name alone", instead='{"kind": "auto"}'),
    ]


class PruneFields(Spec):
    """The fields that every criterion shares."""

    sparsity: Share | None = Field(None, description="Share pruned; may be left out where the pattern tells.")
    pattern: AnyPattern = PATTERNS["unstructured"]()
    budget: AnyBudget = BUDGETS["uniform"]()
    optimizer: AnyOptimizer = None
    update: AnyUpdate = NoUpdate()
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
        if self.target_sparsity > self.pattern.ceiling() + 1e-9:
            raise PydanticCustomError(
                "above_pattern",
                "the pattern prunes at most {ceiling} of a matrix",
                {"ceiling": self.pattern.ceiling(), "at": "sparsity"},
            )
        return self

    @model_validator(mode="after")
    def _the_axes_go_together(self) -> PruneFields:
        axes = self.axes
        chosen = {name: getattr(axes, name) for name in ("pattern", "budget", "optimizer")}
        for at, method in {"method": axes.criterion, **chosen, "update": axes.solver}.items():
            why = method and method.incompatible_with(axes)
            if why:
                raise PydanticCustomError("does_not_combine", "{why}", {"why": why, "at": at})
        return self

    @property
    def axes(self) -> Axes:
        """The choices on all axes."""
        criterion = cast(Criterion, self)
        own = criterion.own_update
        solver = self.update if isinstance(self.update, Solver) else None if own is None else SOLVERS[own]()
        axes = Axes(criterion, self.pattern, self.budget, self.optimizer, solver)
        return axes if solver is None else replace(axes, solver=solver.for_axes(axes))

    @property
    def solver(self) -> Solver | None:
        """The solver asked for, or the criterion's own; None when the kept weights stay as they are."""
        return self.axes.solver

    @property
    def reads(self) -> Need:
        """The most that criterion, mask optimizer and solver read of a matrix's inputs."""
        return need_of((*cast(Criterion, self).statistics, *self._read_later))

    @property
    def planned(self) -> Declared:
        """What a plan reads of the dense model before the walk: budgets, and scores compared across blocks."""
        scores = cast(Criterion, self).statistics if self.pattern.spans_model else ()
        return (*self.budget.statistics, *scores)

    @property
    def gathers(self) -> Declared:
        """What a walk gathers of every matrix."""
        scores = () if self.pattern.spans_model else cast(Criterion, self).statistics
        return (*scores, *self._read_later)

    @property
    def _read_later(self) -> Declared:
        """What is read once the scores are there."""
        return tuple(kind for method in (self.optimizer, self.solver) if method for kind in method.statistics)

    @property
    def target_sparsity(self) -> float:
        """The fraction to prune, from the request or implied by the pattern."""
        implied = self.pattern.implied_sparsity()
        return implied if implied is not None else self.sparsity or 0.0

    @property
    def label(self) -> str:
        """The target sparsity as text, for the name of a job."""
        return f"{self.target_sparsity:.0%}"


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
    Prune = PruneStep | StructureStep
else:
    Prune = _one_of(
        "method",
        STEPS | STRUCTURE_STEPS,
        "alps",
        "admm",
        "awp",
        instead='`method: "wanda"`, and the solver as `update`',
    )
