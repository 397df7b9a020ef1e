"""SparseFW: the mask relaxed to [0, 1], Frank-Wolfe on the layer error, then the highest entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Axes, Cost, MaskOptimizer, MaskProblem
from espalier.methods.lazy_torch import torch
from espalier.methods.mask_error import mask_errors, refuse_optimizer
from espalier.methods.statistics.gram import Gram
from espalier.methods.unique_results import scatter_unique
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

GRID = (0.1, 0.25, 0.5, 0.75, 0.9)
ON_DEVICE, ON_CPU = 2000, 300
"""The values of `iterations: auto`; the error falls as 2 / (t + 2), most of it in the first hundreds."""
BATCH_ELEMENTS = 2**22
"""Weights in a batch of rows: five float32 buffers of that size live at once."""


class SparseFw(MaskOptimizer):
    """Fixes the share `alpha` of the kept weights that score highest and lets Frank-Wolfe choose the others.

    Where lines lie inside rows, `alpha` counts in every row and the best result is taken row by row; a budget over the
    matrix makes the matrix one problem. The mask given is kept wherever nothing beats it.
    """

    summary: ClassVar[str] = "Frank-Wolfe on the relaxed mask; weighs all weights of a line together."
    paper: ClassVar[str] = "arXiv 2510.13713"
    cost: ClassVar[Cost] = "high"
    constraints: ClassVar[tuple[str, ...]] = (
        "patterns of single weights: unstructured and n:m",
        "not with an update that chooses the mask itself",
    )

    kind: Literal["sparsefw"] = "sparsefw"
    alpha: Annotated[float, Field(ge=0, le=1)] | Literal["grid"] = Field(
        0.5, description="Share of the kept weights that stay as the criterion chose them; grid: the best of five."
    )
    iterations: Annotated[int, Field(ge=1, le=1_000_000)] | Literal["auto"] = Field(
        "auto", description=f"auto: {ON_DEVICE} on a GPU, {ON_CPU} on a CPU."
    )

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse patterns of units and updates that would choose the mask anew."""
        return refuse_optimizer(axes, self.kind)

    def improve(self, problem: MaskProblem) -> Tensor:
        """Return the mask; its error at most that of the mask given, row by row or as a whole."""
        weight_OI, mask_OI, score_OI = problem.weight_OI, problem.mask_OI, problem.score_OI
        gram_II = problem.statistics[Gram]
        line = problem.pattern.line((weight_OI.shape[0], weight_OI.shape[1])) or 0
        whole = line > weight_OI.shape[1]
        rows = len(weight_OI) if whole else max(1, BATCH_ELEMENTS // weight_OI.shape[1])
        improved_OI = mask_OI.clone()
        for start in counted(range(0, len(weight_OI), rows)):
            part = slice(start, start + rows)
            improved_OI[part] = self._best(weight_OI[part], mask_OI[part], score_OI[part], gram_II, line, whole=whole)
        return improved_OI

    def _best(
        self, weight_RI: Tensor, mask_RI: Tensor, score_RI: Tensor, gram_II: Tensor, line: int, *, whole: bool
    ) -> Tensor:
        iterations = self.iterations
        if iterations == "auto":
            iterations = ON_CPU if weight_RI.device.type == "cpu" else ON_DEVICE
        best_RI, lowest_R = mask_RI, mask_errors(weight_RI, mask_RI, gram_II)
        for alpha in GRID if self.alpha == "grid" else (self.alpha,):
            fixed_RI = fixed_entries(mask_RI, score_RI, alpha, whole=whole)
            candidate_RI = frank_wolfe(
                weight_RI, mask_RI, fixed_RI, torch.isneginf(score_RI), gram_II, line=line, iterations=iterations
            )
            error_R = mask_errors(weight_RI, candidate_RI, gram_II)
            better_R = (error_R.sum() < lowest_R.sum()).expand(len(error_R)) if whole else error_R < lowest_R
            best_RI = torch.where(better_R[:, None], candidate_RI, best_RI)
            lowest_R = torch.where(better_R, error_R, lowest_R)
        return best_RI


def fixed_entries(mask_RI: Tensor, score_RI: Tensor, alpha: float, *, whole: bool) -> Tensor:
    """Return the floor(alpha * kept) highest scores of the mask, in every row or in the matrix."""
    size = mask_RI.numel() if whole else mask_RI.shape[1]
    kept_UN = mask_RI.reshape(-1, size)
    ranked_UN = score_RI.reshape(-1, size).masked_fill(~kept_UN, -1).argsort(dim=1, descending=True, stable=True)
    counts_U = (kept_UN.sum(dim=1).double() * alpha + 1e-9).floor()  # 0.1 * 30 is less than 3 in binary
    chosen_UN = torch.arange(size, device=mask_RI.device) < counts_U[:, None]
    return scatter_unique(torch.zeros_like(kept_UN), ranked_UN, chosen_UN).view(mask_RI.shape)


def frank_wolfe(
    weight_RI: Tensor,
    mask_RI: Tensor,
    fixed_RI: Tensor,
    closed_RI: Tensor,
    gram_II: Tensor,
    *,
    line: int,
    iterations: int,
) -> Tensor:
    """Minimise ||X (w - (fixed + m) * w)||^2 over m in [0, 1], with every line's count of `mask_RI`.

    `fixed` is kept and `closed` pruned whatever the gradient says.
    The gradient -2 w * ((w - (fixed + m) * w) G) contains what is fixed; without it the free part would be chosen as
    if the fixed weights were pruned.
    """
    free_LN = ~fixed_RI.reshape(-1, line)
    budget_L = (mask_RI.reshape(-1, line) & free_LN).sum(dim=1, keepdim=True)
    max_free = int(budget_L.max())
    if max_free == 0:
        return mask_RI
    rank_K = torch.arange(max_free, device=weight_RI.device)
    target_RI = weight_RI.masked_fill(fixed_RI, 0) @ gram_II
    relaxed_RI = (mask_RI & ~fixed_RI).to(weight_RI.dtype)
    for step in counted(range(iterations)):
        gain_RI = (target_RI - (weight_RI * relaxed_RI) @ gram_II).mul_(weight_RI).masked_fill_(fixed_RI | closed_RI, 0)
        value_LK, index_LK = gain_RI.view(-1, line).topk(max_free, dim=1)
        chosen_LK = ((value_LK > 0) & (rank_K < budget_L)).to(weight_RI.dtype)
        vertex_LN = scatter_unique(torch.zeros_like(relaxed_RI).view(-1, line), index_LK, chosen_LK)
        relaxed_RI.lerp_(vertex_LN.view(relaxed_RI.shape), 2 / (step + 2))
    relaxed_RI.masked_fill_(fixed_RI | closed_RI, -1)
    order_LN = relaxed_RI.view(-1, line).argsort(dim=1, descending=True, stable=True)
    kept_LN = torch.arange(line, device=weight_RI.device) < budget_L
    selected_LN = scatter_unique(torch.zeros_like(free_LN), order_LN, kept_LN)
    return fixed_RI | selected_LN.view(fixed_RI.shape)
