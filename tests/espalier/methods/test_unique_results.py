"""What runs outside deterministic mode on a GPU: it has one result, and nothing is sorted for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from espalier.methods.base import MaskProblem, Pattern
from espalier.methods.mask_optimizers.sparsefw import SparseFw
from espalier.methods.mask_optimizers.sparseswaps import SparseSwaps
from espalier.methods.patterns.cs256 import Cs256
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.unstructured import FEW_LINES, Unstructured, without_lowest
from espalier.methods.solvers.least_squares import LeastSquares
from espalier.methods.solvers.sparsegpt import SparseGpt
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from espalier.methods.unique_results import scatter_unique, unique_result
from espalier.model.fused_experts import Expert, SeparateExperts
from tests.standin.backend import watching
from tests.standin.card import Card
from tests.standin.tensors import DEVICE


@pytest.fixture
def card() -> Iterator[Card]:
    """The pretend card in deterministic mode."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with watching() as card:
            yield card
    finally:
        torch.use_deterministic_algorithms(before)


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _problem(device: torch.device | str, pattern: Pattern | None = None) -> MaskProblem:
    weight_OI = torch.randn(6, 64, generator=_draws(1))
    input_TI = torch.randn(200, 64, generator=_draws(2))
    pattern = pattern or Unstructured()
    mask_OI = pattern.keep(weight_OI.abs(), sparsity=0.5)
    statistics: Statistics = {Gram: (input_TI.T @ input_TI).to(device)}
    weights = weight_OI.to(device), mask_OI.to(device), weight_OI.abs().to(device)
    return MaskProblem(weights[0], statistics, _draws(3), weights[1], weights[2], pattern, 0.5)


def _experts(device: torch.device | str) -> torch.Tensor:
    draws = _draws(4)
    stacked = torch.randn(3, 8, 4, generator=draws), torch.randn(3, 4, 4, generator=draws)
    experts = SeparateExperts(Expert(stacked[0][index], stacked[1][index], nn.SiLU()) for index in range(3))
    for index, expert in enumerate(experts):
        for name, part in (("gate_proj", stacked[0][index][:4]), ("up_proj", stacked[0][index][4:])):
            expert.get_submodule(name).weight = nn.Parameter(part.clone())
        expert.get_submodule("down_proj").weight = nn.Parameter(stacked[1][index].clone())
    chosen_TK = torch.stack([torch.randperm(3, generator=draws)[:2] for _ in range(9)])
    share_TK = torch.rand(9, 2, generator=draws)
    with torch.no_grad():
        made: torch.Tensor = experts.to(device)(
            torch.randn(9, 4, generator=draws).to(device), chosen_TK.to(device), share_TK.to(device)
        )
    return made


USES: dict[str, Callable[[torch.device | str], torch.Tensor]] = {
    "cs256": lambda device: Cs256().keep(_problem(device).score_OI, sparsity=0.5),
    "nm": lambda device: NOfM().keep(_problem(device).score_OI, sparsity=0.5),
    "sparsefw": lambda device: SparseFw(iterations=4).improve(_problem(device)),
    "sparseswaps": lambda device: SparseSwaps(iterations=4).improve(_problem(device)),
    "sparseswaps in groups": lambda device: SparseSwaps(iterations=4).improve(_problem(device, NOfM())),
    "least_squares": lambda device: LeastSquares().solve(_problem(device)).weight_OI,
    "sparsegpt": lambda device: SparseGpt(mask="own").solve(_problem(device)).mask_OI,
    "experts": _experts,
}


@pytest.mark.parametrize("name", USES)
def test_what_is_written_once_is_not_sorted_and_is_what_a_cpu_writes(name: str, card: Card) -> None:
    expected = USES[name]("cpu")
    with card.account() as books:
        made = USES[name](DEVICE)
    assert books.sorted_scatters == 0, books.places
    assert made.device == DEVICE
    assert torch.equal(made.cpu(), expected)


def _without_lowest(score_LN: torch.Tensor, num_pruned: int) -> torch.Tensor:
    """By sorting; of equal scores the first goes."""
    order_LN = score_LN.sort(dim=1, stable=True).indices
    return torch.ones_like(score_LN, dtype=torch.bool).scatter_(1, order_LN[:, :num_pruned], False)


@pytest.mark.parametrize("lines", [1, FEW_LINES - 1, FEW_LINES, 3 * FEW_LINES])
@pytest.mark.parametrize("levels", [1, 2, 5, 10**6], ids=lambda levels: f"{levels} scores")
def test_a_card_selects_what_sorting_selects(levels: int, lines: int, card: Card) -> None:
    draws = _draws(levels + lines)
    for size in (1, 7, 40):
        score_LN = (torch.rand(lines, size, generator=draws, dtype=torch.float64) * levels).floor()
        score_LN[torch.rand(lines, size, generator=draws) < 0.1] = -torch.inf
        score_LN[score_LN == 0] *= -1  # zeros of both signs are equal
        for num_pruned in {0, 1, size // 2, size - 1, size}:
            expected = _without_lowest(score_LN, num_pruned)
            assert torch.equal(without_lowest(score_LN, num_pruned=num_pruned), expected)
            assert torch.equal(without_lowest(score_LN.to(DEVICE), num_pruned=num_pruned).cpu(), expected)


def test_the_mode_is_what_it_was_behind_it(card: Card) -> None:
    def fail() -> None:
        with unique_result(DEVICE):
            assert not torch.are_deterministic_algorithms_enabled()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    scatter_unique(torch.zeros(1, 2, device=DEVICE), torch.tensor([[1]]).to(DEVICE), 1.0)
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_cpu_stays_in_deterministic_mode() -> None:
    before: Any = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with unique_result(torch.device("cpu")):
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
