"""Standing in for removed blocks: a linear map, merged into the matrix before the cut (ReplaceMe, arXiv 2505.02819).

What the last matrix before the cut adds to the hidden states, A (T, D), becomes A M, so that the states after it come
close to the ones after the removed blocks: M = argmin ||A M - B||^2 + ridge ||M - 1||^2. The pull is towards the
identity: without evidence the cut stays plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from espalier.errors import UnsupportedArchitectureError
from espalier.model.fused_experts import SeparateExperts
from espalier.model.halves import AGREEMENT, Run
from espalier.model.layout import is_linear

RIDGE = 1e-3
"""Pull towards the identity as a fraction of the mean of diag(A^T A)."""


@dataclass
class Normal:
    """The normal equations of one cut, float64."""

    gram_DD: torch.Tensor
    """A^T A."""
    lack_DD: torch.Tensor
    """A^T (B - A)."""
    tokens: int = 0

    @classmethod
    def of(cls, width: int, *, device: torch.device | str = "cpu") -> Normal:
        """Begin with nothing seen."""
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def add(self, added_TD: torch.Tensor, wanted_TD: torch.Tensor) -> None:
        """Count tokens: what the matrix adds, and what it should add."""
        added, wanted = added_TD.double(), wanted_TD.double()
        self.gram_DD.addmm_(added.T, added)
        self.lack_DD.addmm_(added.T, wanted - added)
        self.tokens += len(added)

    def solve(self, *, ridge: float = RIDGE) -> torch.Tensor:
        """Solve for M (D, D), the ridge regression from the matrix's present output to the wanted one."""
        eye = torch.eye(len(self.gram_DD), dtype=torch.float64, device=self.gram_DD.device)
        pull = ridge * self.gram_DD.diagonal().mean()
        if not float(pull) > 0:
            return eye  # nothing is added: there is nothing to transform
        lower = torch.linalg.cholesky(self.gram_DD + pull * eye)
        return eye + torch.cholesky_solve(self.lack_DD, lower)


def merged(
    weight_OI: torch.Tensor, bias_O: torch.Tensor | None, map_DD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Merge the map into the matrix; return weight and bias, float64: y M = x (M^T W)^T + b M."""
    return map_DD.T @ weight_OI.double(), None if bias_O is None else bias_O.double() @ map_DD


@dataclass(frozen=True)
class Writer:
    """The last addition of a block to its hidden states."""

    module: str
    """The module whose output it is, by name: a linear map, or all experts of a mixture together."""
    maps: tuple[str, ...]
    """The linear maps that end in it; each takes the transformation, for it is the same for all."""


def last_writer(block: nn.Module, run: Run, probe: torch.Tensor) -> Writer:
    """Find the module whose output the block adds to its hidden states last.

    Found by running the block, and proved: without the module's output the block must give its output less exactly
    that. A norm behind it (Gemma 2, OLMo 2) breaks this, and no merged map can stand in for the removed blocks.
    """
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in block.named_modules()
        if is_linear(module) or isinstance(module, SeparateExperts)
    ]
    try:
        with torch.no_grad():
            run(probe)
    finally:
        for handle in handles:
            handle.remove()
    if order and _adds(block.get_submodule(order[-1]), run, probe):
        module = block.get_submodule(order[-1])
        if not isinstance(module, SeparateExperts):
            return Writer(order[-1], (order[-1],))
        return Writer(order[-1], tuple(f"{order[-1]}.{index}.down_proj" for index in range(len(module))))
    raise UnsupportedArchitectureError(
        "no matrix of the block before the cut adds to the hidden states as it is",
        hint="Leave `replace` out: a norm stands between the last matrix and the hidden states of this family.",
    )


@contextmanager
def outputs_of(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Let `change` see every output of a module, and replace it unless it returns None."""
    handle = module.register_forward_hook(lambda _module, _args, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def appending_copies(outputs: list[torch.Tensor]) -> Callable[[torch.Tensor], None]:
    """Put copies of outputs into a list: some blocks (Falcon) add to what a map gave in its own place."""
    return lambda output: outputs.append(output.clone())


@torch.no_grad()
def _adds(module: nn.Module, run: Run, probe: torch.Tensor) -> bool:
    outputs: list[torch.Tensor] = []
    with outputs_of(module, appending_copies(outputs)):
        whole = run(probe)
    with outputs_of(module, torch.zeros_like):
        without = run(probe)
    added = outputs[0].reshape(-1, outputs[0].shape[-1])
    if added.numel() != whole.numel():
        return False
    gap = (whole - without - added.view(whole.shape)).float().norm() / added.float().norm()
    return bool(gap < AGREEMENT[whole.dtype])
