"""How often a GPU is asked by solvers and optimizers, and how much of its memory a batch of rows takes."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import MaskOptimizer, MaskProblem, Solver
from espalier.methods.mask_optimizers.sparseswaps import SparseSwaps
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.solvers.admm import Admm
from espalier.methods.solvers.alps import EVERY, Alps
from espalier.methods.solvers.least_squares import BATCH_BYTES, DEVICE_FRACTION, LeastSquares, batch_bytes
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram
from tests.standin.backend import watching
from tests.standin.card import CARD
from tests.standin.tensors import DEVICE


def _problem(device: torch.device | str) -> MaskProblem:
    draws = torch.Generator().manual_seed(0)
    weight_OI, input_TI = torch.randn(8, 32, generator=draws), torch.randn(100, 32, generator=draws)
    mask_OI = Unstructured().keep(weight_OI.abs(), sparsity=0.6)
    statistics: Statistics = {Gram: (input_TI.T @ input_TI).to(device)}
    parts = weight_OI.to(device), mask_OI.to(device), weight_OI.abs().to(device)
    return MaskProblem(parts[0], statistics, draws, parts[1], parts[2], Unstructured(), 0.6)


ADMM = Admm(iterations=9, ramp=5, refit=False)


@pytest.mark.parametrize(
    ("method", "waits"),
    [
        (LeastSquares(), 2),  # how many weights every row keeps, and which rows were solved
        (ADMM, 1 + ADMM.ramp - 1),  # whether its matrix was positive; what the ramp's masks prune
        (Alps(iterations=9), 1 + (9 - 1) // EVERY),  # so torch decomposes; how much of the mask moved
        (SparseSwaps(iterations=4), 4),
    ],
    ids=["least_squares", "admm", "alps", "sparseswaps"],
)
def test_a_card_is_asked_once_for_what_is_decided(method: Solver | MaskOptimizer, waits: int) -> None:
    def made(device: torch.device | str) -> torch.Tensor:
        problem = _problem(device)
        return method.solve(problem).mask_OI if isinstance(method, Solver) else method.improve(problem)

    expected = made("cpu")
    with watching():
        with CARD.account() as books:
            mask_OI = made(DEVICE)
        assert torch.equal(mask_OI.cpu(), expected)
    assert books.waits <= waits, books.places


def test_a_batch_of_rows_takes_a_fixed_part_of_a_card_or_half_of_what_is_free() -> None:
    assert batch_bytes(torch.device("cpu")) == BATCH_BYTES
    with watching():
        assert batch_bytes(DEVICE) == int(CARD.capacity * DEVICE_FRACTION)
        with CARD.bounded(CARD.live + 2**34):
            held = torch.empty(2**34 - 2**30, dtype=torch.uint8, device="meta")  # its size alone is of use
            CARD.live += held.nbytes
            CARD.reserved += held.nbytes
            try:
                assert batch_bytes(DEVICE) == 2**29
            finally:
                CARD.live -= held.nbytes
                CARD.reserved -= held.nbytes
