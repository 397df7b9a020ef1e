"""SparseGPT: prune column by column and compensate the error in the columns to the right (OBS update)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Axes, Cost, LayerProblem, MaskProblem, Pattern, Refit, Solver
from espalier.methods.lazy_torch import torch
from espalier.methods.quadratic import SingularError, inverse
from espalier.methods.unique_results import scatter_unique
from espalier.progress import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

PIECE = 32
"""Columns that a GPU sweeps at once; a triangular system of that size of every row lives meanwhile."""


class SparseGpt(Solver):
    """Optimal-brain-surgeon updates over blocks of columns, for the mask given or one chosen on the way."""

    summary: ClassVar[str] = "Second-order update in one sweep over the columns: the cheapest update there is."
    paper: ClassVar[str] = "Frantar & Alistarh 2023 (arXiv 2301.00774)"
    cost: ClassVar[Cost] = "low"

    kind: Literal["sparsegpt"] = "sparsegpt"
    block_size: int = Field(128, ge=1, le=4096, description="Columns whose changes reach the rest in one product.")
    damping: float = Field(0.01, ge=0, le=10, description="Ridge, as a share of the mean of the Gram diagonal.")
    mask: Literal["auto", "given", "own"] = Field(
        "auto", description="own: chosen block by block on updated weights; auto: with the criterion `sparsegpt`."
    )

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse to choose anew what an optimizer improved."""
        if self.mask == "own" and axes.optimizer is not None:
            return "`mask: own` would undo the mask optimizer: use `mask: given`, or no optimizer"
        return None

    @property
    def moves_mask(self) -> bool:
        """With a mask of its own: weights that were zero move during the sweep and may be kept."""
        return self.mask == "own"

    def for_axes(self, axes: Axes) -> SparseGpt:
        """Resolve `mask: auto`: a mask that an optimizer improved is not chosen anew."""
        own = axes.criterion.own_update == self.kind and axes.optimizer is None
        return self if self.mask != "auto" else self.model_copy(update={"mask": "own" if own else "given"})

    def solve(self, problem: MaskProblem) -> Refit:
        """Return the swept weights."""
        factor_II = inverse_factor(problem, self.damping)
        # Columns as rows: every step then works on contiguous memory.
        weight_IO = problem.weight_OI.T.clone(memory_format=torch.contiguous_format)
        mask_IO = problem.mask_OI.T.clone(memory_format=torch.contiguous_format)
        sweep = _Sweep(weight_IO, mask_IO, factor_II)
        if self.mask == "own":
            sweep.plan(problem.pattern, problem.sparsity)
        size = max(1, self.block_size // sweep.group) * sweep.group
        for start in counted(range(0, len(weight_IO), size)):
            sweep.block(start, min(start + size, len(weight_IO)))
        mask_OI = sweep.mask_IO.T.contiguous()
        return Refit(sweep.weight_IO.T.masked_fill(~mask_OI, 0), mask_OI)


def inverse_factor(problem: LayerProblem, damping: float) -> Tensor:
    """Return the upper factor U of H^-1 = U^T U; row j, from j on, is the effect of column j's error on later ones."""

    def factorise() -> Tensor:
        factor_II, info = torch.linalg.cholesky_ex(inverse(problem, damping), upper=True)
        if not problem.factorisations.holds(info == 0):
            raise SingularError("the inverse of the Gram matrix cannot be factorised")
        upper_II: Tensor = factor_II.to(problem.weight_OI.dtype)
        return upper_II

    return problem.factorisations.once(("inverse factor", damping), factorise)


def piece_errors(weight_PO: Tensor, mask_PO: Tensor, factor_PP: Tensor) -> Tensor:
    """Compute the errors e of columns whose mask is known, (columns, O); zero where a weight is kept.

    Column after column e_j = (w_j - sum of e_k U_kj over the pruned k before j) / U_jj: of every row the triangular
    system U_SS^T e_S = w_S over its own pruned columns S. All rows are solved at once, with e = 0 for the others.
    """
    pruned_OP = ~mask_PO.T
    system_OPP = factor_PP.T * (pruned_OP[:, :, None] & pruned_OP[:, None, :])
    system_OPP.diagonal(dim1=1, dim2=2).masked_fill_(mask_PO.T, 1)
    right_OP1 = weight_PO.masked_fill(mask_PO, 0).T[:, :, None]
    solved_OP1: Tensor = torch.linalg.solve_triangular(system_OPP, right_OP1, upper=False)
    return solved_OP1[:, :, 0].T


class _Sweep:
    def __init__(self, weight_IO: Tensor, mask_IO: Tensor, factor_II: Tensor) -> None:
        self.weight_IO, self.mask_IO, self.factor_II = weight_IO, mask_IO, factor_II
        self.group = 1
        """Inputs that are chosen together."""
        self._choose_group: Callable[[Tensor], Tensor] | None = None
        self._choose_block = False

    def plan(self, pattern: Pattern, sparsity: float) -> None:
        """Settle how many weights every block of every row loses, by the scores before anything has changed.

        Lines inside rows (n:m) are chosen group by group as the sweep comes to them; where whole units go together,
        the scores before the sweep decide.
        """
        inputs, outputs = self.weight_IO.shape
        line = pattern.line((outputs, inputs))
        if line is not None and line < inputs:
            self.group = line
            self._choose_group = lambda score_OG: pattern.keep(score_OG, sparsity=sparsity)
            return
        self.mask_IO = pattern.keep(self._score(0, inputs), sparsity=sparsity).T.contiguous()
        self._choose_block = line is not None

    def block(self, start: int, end: int) -> None:
        """Choose and prune the columns of one block in place, and mend everything to their right."""
        if self._choose_block:
            self._choose_again(start, end)
        sweep = self._by_columns if self.weight_IO.device.type == "cpu" else self._by_pieces
        error_BO = sweep(start, end)
        self.weight_IO[end:].addmm_(self.factor_II[start:end, end:].T, error_BO, alpha=-1)

    def _by_columns(self, start: int, end: int) -> Tensor:
        """Sweep a block column by column; return the error of every column, (columns, O)."""
        weight_BO, mask_BO = self.weight_IO[start:end], self.mask_IO[start:end]
        factor_BB = self.factor_II[start:end, start:end]
        error_BO = torch.empty_like(weight_BO)
        for column in range(end - start):
            if column % self.group == 0:
                self._choose(start + column)
            error_BO[column] = weight_BO[column].masked_fill(mask_BO[column], 0) / factor_BB[column, column]
            weight_BO[column + 1 :].addr_(factor_BB[column, column + 1 :], error_BO[column], alpha=-1)
        return error_BO

    def _by_pieces(self, start: int, end: int) -> Tensor:
        """Sweep a block in pieces whose mask is known: a GPU takes as long to begin a column as to do all of it."""
        weight_BO, mask_BO = self.weight_IO[start:end], self.mask_IO[start:end]
        factor_BB = self.factor_II[start:end, start:end]
        error_BO = torch.empty_like(weight_BO)
        together = self.group if self._choose_group is not None else end - start
        for group in range(0, end - start, together):
            self._choose(start + group)
            for first in range(group, group + together, PIECE):
                last = min(first + PIECE, group + together)
                piece, rest = slice(first, last), slice(last, None)
                error_BO[piece] = piece_errors(weight_BO[piece], mask_BO[piece], factor_BB[piece, piece])
                weight_BO[piece].addmm_(factor_BB[piece, piece].triu(diagonal=1).T, error_BO[piece], alpha=-1)
                weight_BO[rest].addmm_(factor_BB[piece, rest].T, error_BO[piece], alpha=-1)
        return error_BO

    def _choose(self, start: int) -> None:
        """Choose the next group of inputs by the weights as they stand, where groups are chosen on the way."""
        if self._choose_group is not None:
            end = start + self.group
            self.mask_IO[start:end] = self._choose_group(self._score(start, end)).T

    def _choose_again(self, start: int, end: int) -> None:
        """Choose as many weights of every row in a block as were planned, by the weights as they stand."""
        gone_O = (~self.mask_IO[start:end]).sum(dim=0)
        order_OB = self._score(start, end).sort(dim=1, stable=True).indices
        kept_OB = torch.arange(end - start, device=order_OB.device) >= gone_O[:, None]
        self.mask_IO[start:end] = scatter_unique(torch.empty_like(kept_OB), order_OB, kept_OB).T

    def _score(self, start: int, end: int) -> Tensor:
        """The error that pruning a weight of some columns costs after the others have mended it, (O, columns)."""
        return (self.weight_IO[start:end].T / self.factor_II.diagonal()[start:end]).square()
