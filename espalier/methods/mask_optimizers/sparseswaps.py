"""SparseSwaps: one kept weight against one pruned weight, as long as the exact error falls."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from espalier.methods.base import Axes, Cost, MaskOptimizer, MaskProblem
from espalier.methods.lazy_torch import torch
from espalier.methods.mask_error import mask_errors, refuse_optimizer
from espalier.methods.statistics.gram import Gram
from espalier.methods.unique_results import unique_result
from espalier.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES = 64
"""Of a line longer than this the cheapest so many of either side are paired: exact swaps, not always the best one."""
BATCH_ELEMENTS = 2**24
"""Most pairs that one batch of rows holds at once."""
MIN_GAIN = 1e-6
"""A swap must win so much of the row's first error: below lies the noise of float32."""


class SparseSwaps(MaskOptimizer):
    """Exchanges weights inside a row's lines (the row, or n:m groups) while ||X (w - m*w)||^2 of the row falls.

    With a budget over the matrix swaps stay within rows too: rows keep the counts that the criterion gave them.
    """

    summary: ClassVar[str] = "Exact swaps, best first; never worse than the mask it starts from."
    paper: ClassVar[str] = "arXiv 2512.10922"
    cost: ClassVar[Cost] = "medium"
    constraints: ClassVar[tuple[str, ...]] = (
        "patterns of single weights: unstructured and n:m",
        "not with an update that chooses the mask itself",
    )

    kind: Literal["sparseswaps"] = "sparseswaps"
    iterations: int = Field(100, ge=1, le=100_000, description="Most swaps in every row.")

    def incompatible_with(self, axes: Axes) -> str | None:
        """Refuse patterns of units and updates that would choose the mask anew."""
        return refuse_optimizer(axes, self.kind)

    def improve(self, problem: MaskProblem) -> Tensor:
        """Return the mask; every row's error at most what it was."""
        weight_OI, mask_OI, gram_II = problem.weight_OI, problem.mask_OI, problem.statistics[Gram]
        num_inputs = weight_OI.shape[1]
        line = min(problem.pattern.line((len(weight_OI), num_inputs)) or 0, num_inputs)
        pairs = num_inputs * line if line < num_inputs else min(CANDIDATES, num_inputs) ** 2
        rows = max(1, BATCH_ELEMENTS // max(pairs, num_inputs))
        swapped_OI, closed_OI = mask_OI.clone(), torch.isneginf(problem.score_OI)
        for start in counted(range(0, len(weight_OI), rows)):
            part = slice(start, start + rows)
            _swap(weight_OI[part], swapped_OI[part], closed_OI[part], gram_II, line, self.iterations)
        better_O = mask_errors(weight_OI, swapped_OI, gram_II) < mask_errors(weight_OI, mask_OI, gram_II)
        return torch.where(better_O[:, None], swapped_OI, mask_OI)


def _swap(weight_RI: Tensor, mask_RI: Tensor, closed_RI: Tensor, gram_II: Tensor, line: int, iterations: int) -> None:
    """Swap in place until no row gains; with r = w * (1 - m) and c = G r, pruning p and restoring u changes r^T G r by

    2 w_p c_p + w_p^2 G_pp - 2 w_u c_u + w_u^2 G_uu - 2 w_p w_u G_pu.
    """
    pruned_RI = weight_RI * ~mask_RI
    pull_RI = pruned_RI @ gram_II
    threshold_R = -MIN_GAIN * (pruned_RI * pull_RI).sum(dim=1).clamp_min(0)
    own_RI = weight_RI.square() * gram_II.diagonal()
    active_A = torch.arange(len(weight_RI), device=weight_RI.device)
    for _ in counted(range(iterations)):
        weight_AI, kept_AI, pull_AI = weight_RI[active_A], mask_RI[active_A], pull_RI[active_A]
        cross_AI = 2 * weight_AI * pull_AI
        prune_AI = (own_RI[active_A] + cross_AI).masked_fill_(~kept_AI, torch.inf)
        restore_AI = (own_RI[active_A] - cross_AI).masked_fill_(kept_AI | closed_RI[active_A], torch.inf)
        pick = _best_of_row if line == weight_RI.shape[1] else _best_of_groups
        change_A, p_A, u_A = pick(weight_AI, prune_AI, restore_AI, gram_II, line)
        gaining = (change_A < threshold_R[active_A]).nonzero().flatten()  # a GPU is asked once
        active_A, p_A, u_A = active_A[gaining], p_A[gaining], u_A[gaining]
        if not len(active_A):
            return
        w_p, w_u = weight_RI[active_A, p_A][:, None], weight_RI[active_A, u_A][:, None]
        with unique_result(weight_RI.device):  # one weight of a row
            mask_RI[active_A, p_A] = False
            mask_RI[active_A, u_A] = True
            pull_RI[active_A] += w_p * gram_II[p_A] - w_u * gram_II[u_A]


def _best_of_row(
    weight_AI: Tensor, prune_AI: Tensor, restore_AI: Tensor, gram_II: Tensor, line: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pair among the most promising of either side: change, pruned input, restored input of every row."""
    count = min(CANDIDATES, line)
    prune_AP, p_AP = prune_AI.topk(count, dim=1, largest=False)
    restore_AU, u_AU = restore_AI.topk(count, dim=1, largest=False)
    w_AP, w_AU = weight_AI.gather(1, p_AP), weight_AI.gather(1, u_AU)
    both_APU = gram_II[p_AP[:, :, None], u_AU[:, None, :]]
    both_APU *= w_AP[:, :, None] * w_AU[:, None, :]
    change_APU = prune_AP[:, :, None] + restore_AU[:, None, :] - 2 * both_APU
    change_A, best_A = change_APU.flatten(start_dim=1).min(dim=1)
    p_A = p_AP.gather(1, best_A[:, None] // count)[:, 0]
    return change_A, p_A, u_AU.gather(1, best_A[:, None] % count)[:, 0]


def _best_of_groups(
    weight_AI: Tensor, prune_AI: Tensor, restore_AI: Tensor, gram_II: Tensor, line: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pair inside any group of `line` inputs of every row."""
    groups = (len(weight_AI), -1, line)
    inputs_GM = torch.arange(weight_AI.shape[1], device=weight_AI.device).view(-1, line)
    gram_GMM = gram_II[inputs_GM[:, :, None], inputs_GM[:, None, :]]
    weight_AGM = weight_AI.view(groups)
    both_AGMM = weight_AGM[:, :, :, None] * weight_AGM[:, :, None, :] * gram_GMM
    change_AGMM = prune_AI.view(groups)[:, :, :, None] + restore_AI.view(groups)[:, :, None, :] - 2 * both_AGMM
    change_A, best_A = change_AGMM.flatten(start_dim=1).min(dim=1)
    first_A = best_A // line**2 * line
    return change_A, first_A + best_A % line**2 // line, first_A + best_A % line
