"""Structured OBS against brute force in float64."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from espalier.methods.optimal_brain_surgeon import DAMPING, refit, remove_groups
from espalier.methods.structured import Moments, UnitEvidence, UnitScore
from espalier.recipe.steps.structure import UNIT_CRITERIA
from tests.standin.backend import watching
from tests.standin.card import CARD
from tests.standin.tensors import DEVICE


def problem(*, inputs: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=draws)
    input_TI = torch.randn(96, inputs, generator=draws) @ mix
    return torch.randn(7, inputs, generator=draws), input_TI, input_TI.T @ input_TI


def best_error(weight_OI: torch.Tensor, gram_II: torch.Tensor, kept: list[int]) -> float:
    """The damped squared error of the best weights on the kept columns, by normal equations."""
    gram = gram_II.double()
    gram = gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = weight_OI.double()
    refitted = torch.linalg.solve(gram[kept][:, kept], gram[kept] @ weight.T).T
    change = weight.clone()
    change[:, kept] -= refitted
    return float((change @ gram * change).sum())


@pytest.mark.parametrize("group", [1, 2, 3])
def test_the_first_removal_is_the_cheapest_of_all(group: int) -> None:
    weight_OI, _, gram_II = problem()
    removal = remove_groups(weight_OI, gram_II, group=group, count=1)
    errors = {}
    for gone in range(12 // group):
        kept = [index for index in range(12) if index // group != gone]
        errors[gone] = best_error(weight_OI, gram_II, kept)
    (removed,) = set(range(12 // group)) - set(removal.kept.tolist())
    assert removed == min(errors, key=lambda key: errors[key])
    assert removal.cost == pytest.approx(errors[removed], rel=1e-9)


@pytest.mark.parametrize("group", [1, 2])
def test_the_costs_add_up_to_the_error_of_the_best_refit(group: int) -> None:
    weight_OI, _, gram_II = problem(seed=3)
    removal = remove_groups(weight_OI, gram_II, group=group, count=3)
    kept = [int(unit) * group + offset for unit in removal.kept for offset in range(group)]
    assert removal.cost == pytest.approx(best_error(weight_OI, gram_II, kept), rel=1e-9)


def test_greedy_removal_is_near_the_best_of_all_subsets() -> None:
    weight_OI, _, gram_II = problem(inputs=8, seed=5)
    removal = remove_groups(weight_OI, gram_II, group=1, count=3)
    best = min(best_error(weight_OI, gram_II, list(kept)) for kept in combinations(range(8), 5))
    assert best <= removal.cost * (1 + 1e-9) <= 2 * best


def test_the_refit_is_least_squares() -> None:
    weight_OI, input_TI, gram_II = problem(seed=1)
    kept = torch.tensor([0, 2, 3, 5, 8, 9, 11])
    expected = torch.linalg.lstsq(input_TI[:, kept].double(), input_TI.double() @ weight_OI.double().T).solution.T
    torch.testing.assert_close(refit(weight_OI, gram_II, kept), expected, rtol=1e-3, atol=1e-3)


def test_dead_inputs_go_first_and_change_nothing() -> None:
    weight_OI, input_TI, _ = problem(seed=2)
    input_TI[:, [4, 7]] = 0
    gram_II = input_TI.T @ input_TI
    removal = remove_groups(weight_OI, gram_II, group=1, count=2)
    assert set(range(12)) - set(removal.kept.tolist()) == {4, 7}
    after = refit(weight_OI, gram_II, removal.kept)
    torch.testing.assert_close(
        input_TI[:, removal.kept].double() @ after.T, input_TI.double() @ weight_OI.double().T, rtol=1e-4, atol=1e-3
    )


def test_removing_several_on_one_ranking_removes_as_many() -> None:
    weight_OI, _, gram_II = problem()
    for rounds in (1, 2, 12):
        assert len(remove_groups(weight_OI, gram_II, group=1, count=5, rounds=rounds).kept) == 7


def test_scores_are_their_formulas() -> None:
    weight_OI, input_TI, _ = problem(seed=4)
    moments = Moments.of(12, gram=True)
    for part in torch.split(input_TI, 31):
        moments.add(part)
    wide = input_TI.double()
    torch.testing.assert_close(moments.variance, wide.var(dim=0, correction=0))
    assert moments.gram_II is not None
    torch.testing.assert_close(moments.gram_II, input_TI.T @ input_TI, rtol=1e-4, atol=1e-3)
    producers = [torch.randn(6, 5).double().square().sum(dim=1)]
    evidence = UnitEvidence(weight_OI, producers, moments, 2)
    expected: dict[str, list[float]] = {name: [] for name in ("magnitude_sp", "wanda_sp", "flap", "two_ssp")}
    for unit in range(6):
        columns = [(weight_OI[:, i].double(), wide[:, i]) for i in (2 * unit, 2 * unit + 1)]
        weights = sum(float(column.square().sum()) for column, _ in columns)
        expected["magnitude_sp"].append(weights + float(producers[0][unit]))
        expected["wanda_sp"].append(sum(float((column.abs() * seen.norm()).sum()) for column, seen in columns))
        fluctuation = (float(seen.var(correction=0) * column.square().sum()) for column, seen in columns)
        expected["flap"].append(sum(fluctuation))
        expected["two_ssp"].append(sum(float(seen.square().mean().sqrt()) for _, seen in columns))
    for name, formula in expected.items():
        criterion = UNIT_CRITERIA[name]()
        assert isinstance(criterion, UnitScore)
        torch.testing.assert_close(criterion.score(evidence), torch.tensor(formula, dtype=torch.float64), msg=name)


@pytest.mark.parametrize("group", [1, 3])
def test_a_card_removes_and_refits_as_a_cpu(group: int) -> None:
    weight_OI, input_TI, gram_II = problem()
    expected = remove_groups(weight_OI, gram_II, group=group, count=2)
    moments = Moments.of(12, gram=True)
    moments.add(input_TI)
    with watching():
        ours = weight_OI.to(DEVICE), gram_II.to(DEVICE)
        with CARD.account() as books:
            removal = remove_groups(*ours, group=group, count=2)
        assert books.to_host <= expected.kept.nbytes, "numbers alone come to the host"
        assert torch.equal(removal.kept.cpu(), expected.kept)
        assert removal.cost == expected.cost
        refitted = refit(*ours, removal.kept)
        assert torch.equal(refitted.cpu(), refit(weight_OI, gram_II, expected.kept))
        there = Moments.of(12, gram=True, device=DEVICE)
        there.add(input_TI.to(DEVICE))
        assert torch.equal(there.variance.cpu(), moments.variance)
