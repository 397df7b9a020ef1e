"""Least squares: the exact optimum of the kept weights, row by row, in batches that fit the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Cost, MaskProblem, Refit, Solver
from espalier.methods.lazy_torch import torch
from espalier.methods.quadratic import DAMPING_FACTORS, damped
from espalier.methods.statistics.gram import Gram
from espalier.methods.unique_results import scatter_unique, unique_result
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

BATCH_BYTES = 256 * 2**20
"""Most memory for the systems of one batch of rows, on a CPU."""
DEVICE_FRACTION = 1 / 16
"""Of a GPU's memory, for the same: there one row after the other would take hours."""


class LeastSquares(Solver):
    """Solves H_SS w_S = (H w0)_S for the kept set S of every row."""

    summary: ClassVar[str] = "The exact optimum of the kept weights for the mask given; cubic in the weights kept."
    paper: ClassVar[str] = "normal equations on the support of every row, ridge towards the dense weights"
    cost: ClassVar[Cost] = "medium"

    kind: Literal["least_squares"] = "least_squares"
    damping: float = Field(0.01, ge=0, le=10, description="Ridge, as a share of the mean of the Gram diagonal.")

    def solve(self, problem: MaskProblem) -> Refit:
        """Return the optimum on the mask given."""
        return Refit(
            refit_rows(problem.weight_OI, problem.mask_OI, problem.statistics[Gram], self.damping), problem.mask_OI
        )


def refit_rows(weight_OI: Tensor, mask_OI: Tensor, gram_II: Tensor, damping: float) -> Tensor:
    """Solve least squares for every row on its mask; a row that no damping makes solvable keeps its weights."""
    fitted_OI = weight_OI.masked_fill(~mask_OI, 0)
    # Rows of one batch are padded to its longest: sorted by length, next to nothing is padding.
    counts_O = mask_OI.sum(dim=1)
    rows_R = counts_O.argsort(stable=True)
    counts: list[int] = counts_O[rows_R].tolist()
    rows_R, counts = rows_R[counts.count(0) :], counts[counts.count(0) :]
    for factor in DAMPING_FACTORS if counts else ():
        hessian_II = damped(gram_II, max(damping * factor, 1e-6 if factor > 1 else 0.0))
        good_R: list[Tensor] = []
        for start, size in counted(_batches(counts, batch_bytes(weight_OI.device))):
            batch_B = rows_R[start : start + size]
            longest = counts[start + size - 1]
            solved_BI, good_B = _solve_rows(weight_OI[batch_B], mask_OI[batch_B], hessian_II, longest)
            kept_BI = torch.where(good_B[:, None], solved_BI.to(fitted_OI.dtype), fitted_OI[batch_B])
            with unique_result(fitted_OI.device):  # a row is in one batch
                fitted_OI[batch_B] = kept_BI
            good_R.append(good_B)
        good: list[bool] = torch.cat(good_R).tolist()
        if all(good):
            break
        left = [place for place, fine in enumerate(good) if not fine]
        rows_R, counts = rows_R[torch.tensor(left, device=rows_R.device)], [counts[place] for place in left]
    return fitted_OI


def batch_bytes(device: torch.device) -> int:
    """Return the memory for one batch: of a GPU a fixed part, or half of what is free."""
    if device.type == "cpu":
        return BATCH_BYTES
    of = torch.get_device_module(device)
    free, total = of.mem_get_info(device)
    total = int(total * of.get_per_process_memory_fraction(device))
    allocated = int(of.memory_allocated(device))
    left = min(int(free) + int(of.memory_reserved(device)) - allocated, total - allocated)
    return max(BATCH_BYTES, min(int(total * DEVICE_FRACTION), left // 2))


def _batches(counts: list[int], max_bytes: int) -> list[tuple[int, int]]:
    """Return where batches begin, and how many rows they have."""
    bytes_each = counts[-1] ** 2 * 8 * 2  # the system and its factor
    size = max(1, max_bytes // bytes_each)
    return [(start, min(size, len(counts) - start)) for start in range(0, len(counts), size)]


def _solve_rows(weight_BI: Tensor, mask_BI: Tensor, hessian_II: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Solve a batch of rows that keep `longest` weights at most; also which rows came out finite."""
    target_BI = weight_BI.to(hessian_II.dtype) @ hessian_II
    # Kept inputs first, in order; entries beyond a row's own count are padding.
    order_BK = (~mask_BI).to(torch.uint8).sort(dim=1, stable=True).indices[:, :longest]
    real_BK = mask_BI.gather(1, order_BK)
    system_BKK = hessian_II[order_BK[:, :, None], order_BK[:, None, :]]
    system_BKK *= real_BK[:, :, None] & real_BK[:, None, :]
    system_BKK.diagonal(dim1=1, dim2=2).masked_fill_(~real_BK, 1)
    lower_BKK, info_B = torch.linalg.cholesky_ex(system_BKK)
    right_BK = target_BI.gather(1, order_BK) * real_BK
    solved_BK = torch.cholesky_solve(right_BK[:, :, None], lower_BKK)[:, :, 0] * real_BK
    good_B = (info_B == 0) & torch.isfinite(solved_BK).all(dim=1)
    return scatter_unique(torch.zeros_like(target_BI), order_BK, solved_BK), good_B
