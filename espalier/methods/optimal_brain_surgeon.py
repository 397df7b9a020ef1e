"""Structured optimal brain surgeon: remove input groups one by one, and update the kept columns to compensate.

For outputs Y = X W^T and G = X^T X, removing the columns g costs tr(W_g (H^-1)_gg^-1 W_g^T) with H = G + damping, and
the best change of the rest is -W_g (H^-1)_gg^-1 (H^-1)_g: (Hassibi & Stork 1993, in groups as in arXiv 2403.12983).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from espalier.methods.lazy_torch import torch
from espalier.methods.unique_results import unique_result
from espalier.progress import count_step

if TYPE_CHECKING:
    from torch import Tensor

DAMPING = 1e-3
"""Added to the diagonal of G, as a fraction of its mean."""
ROUNDS = 128
"""Most rounds of removal: with more groups than that, several go on one ranking."""


@dataclass(frozen=True)
class Removal:
    """The groups that stay, in order."""

    kept: Tensor
    cost: float
    """Sum of the costs of the removals: the squared output error before the final refit."""


def remove_groups(weight_OI: Tensor, gram_II: Tensor, *, group: int, count: int, rounds: int = ROUNDS) -> Removal:
    """Choose `count` of the I / group input groups to go, greedily; float64 throughout."""
    weight, inverse = weight_OI.double().clone(), _inverse(gram_II)
    remaining = torch.ones(weight.shape[1] // group, dtype=torch.bool, device=weight.device)
    per_round, cost = max(1, -(-count // rounds)), torch.zeros((), dtype=torch.float64, device=weight.device)
    for done in range(0, count, per_round):
        count_step()
        due = min(per_round, count - done)
        losses = _losses(weight, inverse, group).masked_fill(~remaining, torch.inf)
        gone = losses.sort(stable=True).indices[:due]  # of equals the lower index goes
        columns = _columns(gone, group)
        cost += _remove_columns(weight, inverse, columns)
        with unique_result(weight.device):
            remaining[gone] = False
    return Removal(remaining.nonzero().flatten(), float(cost))


def refit(weight_OI: Tensor, gram_II: Tensor, kept_I: Tensor) -> Tensor:
    """Refit the columns `kept_I` of the weight to the outputs of all columns: W G_:S (G_SS)^-1, float64."""
    gram = gram_II.double()
    damped = gram + DAMPING * 1e-3 * gram.diagonal().mean() * _eye(gram)
    lower = torch.linalg.cholesky(damped[kept_I][:, kept_I])
    refitted: Tensor = torch.cholesky_solve((weight_OI.double() @ damped[:, kept_I]).T, lower).T
    return refitted


def _inverse(gram_II: Tensor) -> Tensor:
    gram = gram_II.double()
    scale = float(gram.diagonal().mean()) or 1.0
    inverse: Tensor = torch.linalg.inv(gram + DAMPING * scale * _eye(gram))
    return inverse


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=torch.float64, device=like.device)


def _losses(weight: Tensor, inverse: Tensor, group: int) -> Tensor:
    """Compute the cost of removing each group, (I / group,); values of removed groups have no meaning."""
    if group == 1:
        return weight.square().sum(dim=0) / inverse.diagonal().clamp_min(torch.finfo(torch.float64).tiny)
    count = len(inverse) // group
    blocks = inverse.view(count, group, count, group).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    eye = torch.eye(group, dtype=torch.float64, device=inverse.device)
    empty = (blocks.diagonal(dim1=1, dim2=2).sum(dim=1) == 0).view(-1, 1, 1)
    solved = torch.linalg.solve(torch.where(empty, eye, blocks), weight.T.reshape(count, group, -1))
    losses: Tensor = (weight.T.reshape(count, group, -1) * solved).sum(dim=(1, 2))
    return losses


def _columns(groups: Tensor, group: int) -> Tensor:
    return (groups[:, None] * group + torch.arange(group, device=groups.device)).flatten().sort().values


def _remove_columns(weight: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    """Remove columns and let the rest make up for them, in place; return the cost."""
    core = inverse[columns][:, columns]
    lift = torch.linalg.solve(core, inverse[columns])  # (H^-1)_gg^-1 (H^-1)_g:
    leaving = weight[:, columns].clone()
    cost: Tensor = (torch.linalg.solve(core, leaving.T) * leaving.T).sum()
    weight -= leaving @ lift
    inverse -= inverse[:, columns] @ lift
    with unique_result(weight.device):
        weight[:, columns] = 0
        inverse[columns] = 0
        inverse[:, columns] = 0
    return cost
