"""What calibration saw at the inputs of matrices: one pass, and nothing that no method asked for."""

from __future__ import annotations

import torch

from espalier.methods.base import InputStatistics, Need
from espalier.model.numerics import moved, require_finite


class InputAccumulator:
    """Running statistics of one input; matrices that read the same tensor share one accumulator."""

    def __init__(self, needs: Need, *, sample_tokens: int, routed: bool = False) -> None:
        """`routed`: the input of an expert, which may have seen few tokens or none."""
        self._needs = needs
        self._routed = routed
        self._wanted = sample_tokens
        self._squares_I: torch.Tensor | None = None
        self._gram_II: torch.Tensor | None = None
        self._sample: list[torch.Tensor] = []
        self.tokens = 0

    def add(self, input_TI: torch.Tensor) -> None:
        """Count a batch of inputs, flattened to tokens."""
        self.tokens += input_TI.shape[0]
        if self._needs != "none":
            # Squares in float64: a float32 sum over 10^5 tokens would move near ties.
            squares_I = input_TI.double().square_().sum(dim=0)
            self._squares_I = squares_I if self._squares_I is None else self._squares_I.add_(squares_I)
        if self._needs == "gram":
            wide = input_TI.float()
            self._gram_II = wide.T @ wide if self._gram_II is None else self._gram_II.addmm_(wide.T, wide)
        missing = self._wanted - sum(len(part) for part in self._sample)
        if missing > 0:
            self._sample.append(input_TI[:missing].to("cpu", copy=True))

    def statistics(self, module: str) -> InputStatistics:
        """Close the books; NumericalError names the module whose inputs are not finite."""
        squares_I, gram_II = self._squares_I, self._gram_II
        for tensor in (squares_I, gram_II):
            if tensor is not None:
                require_finite(tensor, what="the inputs", module=module)
        if self._routed and squares_I is not None:
            squares_I = _filled(squares_I)
        if self._routed and gram_II is not None:
            gram_II = gram_II + torch.diag(_filled(gram_II.diagonal()) - gram_II.diagonal())
        if gram_II is not None:
            squares_I = gram_II.diagonal().double()
        return InputStatistics(self.tokens, None if squares_I is None else squares_I.sqrt(), gram_II)

    def sample(self) -> torch.Tensor:
        """The first tokens that came by, on the CPU: what the error of a mask is measured on."""
        return torch.cat(self._sample)


def _filled(squares_I: torch.Tensor) -> torch.Tensor:
    """Let inputs that an expert never saw count as much as the others do: its weights there go by magnitude."""
    seen_I = squares_I > 0
    usual = squares_I[seen_I].mean() if bool(seen_I.any()) else squares_I.new_ones(())
    return torch.where(seen_I, squares_I, usual)


class OutputErrors:
    """What a change of a matrix costs in its output: by the Gram matrix where there is one, else on a sample."""

    def __init__(self, dense_OI: torch.Tensor, sample_TI: torch.Tensor | None, gram_II: torch.Tensor | None) -> None:
        self._dense_OI = dense_OI
        needed = sample_TI if gram_II is None else None
        self._sample_TI = None if needed is None else moved(needed, dense_OI.device, torch.float32)
        self._gram_II = gram_II
        self._whole = float(self._squared(dense_OI).sum())

    def rows(self, changed_OI: torch.Tensor) -> torch.Tensor:
        """||X (w - w')^T||^2 of every row, float64 (O,)."""
        return self._squared(self._dense_OI - changed_OI)

    def relative(self, changed_OI: torch.Tensor) -> float:
        """||X (W - W')^T||^2 / ||X W^T||^2; 0 when the dense output is zero."""
        return float(self.rows(changed_OI).sum()) / self._whole if self._whole > 0 else 0.0

    def _squared(self, weight_OI: torch.Tensor) -> torch.Tensor:
        if self._gram_II is not None:
            return ((weight_OI @ self._gram_II).double() * weight_OI).sum(dim=1).clamp_min(0)
        assert self._sample_TI is not None
        return (self._sample_TI @ weight_OI.T).double().square().sum(dim=0)
