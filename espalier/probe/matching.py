"""Match the target patterns of a spec against matrix names: compiled once a request, within a time budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from espalier.errors import Problem
from espalier.methods.base import MatrixFacts
from espalier.probe.facts import ModelFacts, ProbedMatrix
from espalier.recipe.expressions import BadPattern, OutOfTime, Selection, TimeBudget
from espalier.recipe.steps.prune import Targets

_CHECK_EVERY = 8
"""Names: patterns that are legal take up to some 10 ms on one."""


@dataclass(frozen=True)
class Chosen:
    """The matrices that a step prunes, and what of them is asked for again and again."""

    matrices: list[ProbedMatrix]

    @cached_property
    def by_inputs(self) -> dict[int, ProbedMatrix]:
        """The first matrix of each number of inputs."""
        matrices: dict[int, ProbedMatrix] = {}
        for matrix in self.matrices:
            matrices.setdefault(matrix.num_inputs, matrix)
        return matrices

    @cached_property
    def narrowest(self) -> ProbedMatrix:
        """The matrix of the lowest full rank."""
        return min(self.matrices, key=lambda matrix: min(matrix.num_inputs, matrix.num_outputs))

    @cached_property
    def known(self) -> list[MatrixFacts]:
        """As budgets see them."""
        return [MatrixFacts(m.name, m.block, (m.num_outputs, m.num_inputs)) for m in self.matrices]


@dataclass
class Matcher:
    """Holds the patterns of one request, which may be of many jobs, against models."""

    _budget: TimeBudget = field(default_factory=TimeBudget)
    _selections: dict[tuple[tuple[str, ...], tuple[str, ...]], Selection | BadPattern] = field(default_factory=dict)
    _chosen: dict[tuple[int, tuple[str, ...], tuple[str, ...]], tuple[ModelFacts, Chosen | int]] = field(
        default_factory=dict
    )

    def refusal(self, targets: Targets, pointer: str) -> Problem | None:
        """Return why patterns cannot be compiled; None when they can."""
        try:
            with self._budget.spending():
                self._selection(targets)
        except BadPattern as error:
            return Problem(f"{pointer}/{error.place}", "bad-regex", str(error))
        except OutOfTime:
            return _slow(pointer)
        return None

    def select(self, targets: Targets, facts: ModelFacts, pointer: str) -> Chosen | Problem:
        """Return the matrices that a step prunes, or why there are none."""
        if problem := self.refusal(targets, pointer):
            return problem
        key = (id(facts), tuple(targets.include), tuple(targets.exclude))
        try:
            if key not in self._chosen:
                with self._budget.spending():
                    self._chosen[key] = facts, self._search(self._selection(targets), facts)
        except OutOfTime:
            return _slow(pointer)
        result = self._chosen[key][1]
        example = f"names look like {facts.matrices[0].name}"
        if isinstance(result, int):
            detail = f"no linear layer inside the blocks matches; {example}"
            return Problem(f"{pointer}/include/{result}", "selects-nothing", detail)
        detail = f"no matrix is left to prune; {example}"
        return result if result.matrices else Problem(pointer, "selects-nothing", detail)

    def _selection(self, targets: Targets) -> Selection:
        key = (tuple(targets.include), tuple(targets.exclude))
        if key not in self._selections:
            try:
                self._selections[key] = Selection(*key, self._budget)
            except BadPattern as error:
                self._selections[key] = error
        selection = self._selections[key]
        if isinstance(selection, BadPattern):
            raise selection
        return selection

    def _search(self, selection: Selection, facts: ModelFacts) -> Chosen | int:
        """Return the selected matrices, or the index of a pattern that no name has."""
        names = [matrix.name for matrix in facts.matrices]
        for index in range(selection.num_included):
            if not self._any(selection, index, names):
                return index
        selected = []
        for number, matrix in enumerate(facts.matrices):
            if selection.selects(matrix.name):
                selected.append(matrix)
            if number % _CHECK_EVERY == 0:
                self._budget.check()
        return Chosen(selected)

    def _any(self, selection: Selection, index: int, names: list[str]) -> bool:
        for number, name in enumerate(names):
            if selection.finds(index, name):
                return True
            if number % _CHECK_EVERY == 0:
                self._budget.check()
        return False


def _slow(pointer: str) -> Problem:
    return Problem(pointer, "slow-regex", "these regular expressions take too long on the module names")
