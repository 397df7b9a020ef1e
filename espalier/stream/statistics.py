"""Accumulate the declared statistics at the inputs of matrices, in one pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from espalier.distributed.group import RankGroup
from espalier.distributed.tree_sum import TreeSum
from espalier.methods.statistic import InputStatistic, Statistic, Statistics, gathered, with_implied
from espalier.model.numerics import all_finite, require_finite, to_device


class InputAccumulator:
    """The statistics of one input; matrices that read the same tensor share one accumulator."""

    def __init__(self, declared: Iterable[type[Statistic]], *, sample_tokens: int, routed: bool = False) -> None:
        """`routed`: the input of an expert, which may have seen few tokens or none."""
        self._running = {kind: kind() for kind in gathered(declared)}
        self._routed = routed
        self._sums = {kind: TreeSum() for kind in self._running}
        self._wanted = sample_tokens
        self._sample: list[torch.Tensor] = []
        self.finite = False
        """Whether what was counted so far is known to be finite."""
        self.tokens = 0

    @property
    def running(self) -> Collection[InputStatistic]:
        """The statistics as they stand."""
        return self._running.values()

    def add(self, input_TI: torch.Tensor) -> None:
        """Count a batch of inputs, flattened to tokens."""
        self.tokens += input_TI.shape[0]
        self.finite = False
        for running in self._running.values():
            running.add(input_TI)
        missing = self._wanted - sum(len(part) for part in self._sample)
        if missing > 0:
            self._sample.append(input_TI[:missing].clone())

    def end_shard(self, index: int) -> None:
        """Put what was counted since the shard before away, and begin anew."""
        for kind, running in self._running.items():
            self._sums[kind].put(index, running.total)
            running.total = None

    def end_shards(self, count: int) -> None:
        """Add up all `count` shards; those in which nothing was counted are nothing."""
        for kind, running in self._running.items():
            running.total = self._sums[kind].total(count)

    def reduce(self, group: RankGroup) -> None:
        """Take what all ranks counted in the place of what this one did; every rank has to call it."""
        totals = group.sum([running.total for running in self._running.values()])
        for running, total in zip(self._running.values(), totals, strict=True):
            running.total = total
        own = self.sample().cpu() if self._sample else None
        counts = group.gather_objects((self.tokens, None if own is None else (own.shape, own.dtype)))
        self.tokens = sum(tokens for tokens, _ in counts)
        self._sample, missing = [], self._wanted
        for rank, (_, kind) in enumerate(counts):
            if kind is not None and missing > 0:
                shape, dtype = kind
                part_TI = own if rank == group.rank and own is not None else torch.empty(shape, dtype=dtype)
                self._sample.append(group.broadcast(part_TI[:missing].contiguous(), source=rank))
                missing -= len(self._sample[-1])

    def statistics(self, module: str) -> Statistics:
        """Return the statistics; NumericalError names the module whose inputs are not finite."""
        require_finite_inputs({module: self})
        return with_implied({kind: running.value(routed=self._routed) for kind, running in self._running.items()})

    def sample(self) -> torch.Tensor:
        """Return the first input tokens, where they were seen: the error of a mask is measured on them."""
        return torch.cat(self._sample)


def require_finite_inputs(inputs: Mapping[str, InputAccumulator]) -> None:
    """Raise NumericalError for the first module whose inputs are not finite; the device is waited for once.

    Those that are known to be finite are not looked at again until more is counted.
    """
    totals = [
        (module, accumulator, running.total)
        for module, accumulator in inputs.items()
        if not accumulator.finite
        for running in accumulator.running
        if running.total is not None
    ]
    if totals and not bool(torch.stack([all_finite(total) for *_, total in totals]).all()):
        for module, _, total in totals:
            require_finite(module, {"the inputs": total})
    for _, accumulator, _ in totals:
        accumulator.finite = True


class OutputErrors:
    """The output error of a changed matrix: by the Gram matrix where there is one, else on a sample."""

    def __init__(self, dense_OI: torch.Tensor, sample_TI: torch.Tensor | None, gram_II: torch.Tensor | None) -> None:
        self._dense_OI = dense_OI
        needed = sample_TI if gram_II is None else None
        self._sample_TI = None if needed is None else to_device(needed, dense_OI.device, torch.float32)
        self._gram_II = gram_II
        self._whole = self._squared(dense_OI).sum()

    def rows(self, changed_OI: torch.Tensor) -> torch.Tensor:
        """Return ||X (w - w')^T||^2 of every row, float64 (O,)."""
        return self._squared(self._dense_OI - changed_OI)

    def relative(self, changed_OI: torch.Tensor) -> torch.Tensor:
        """Return ||X (W - W')^T||^2 / ||X W^T||^2, float64 (); 0 when the dense output is zero."""
        return torch.where(self._whole > 0, self.rows(changed_OI).sum() / self._whole, 0.0)

    def _squared(self, weight_OI: torch.Tensor) -> torch.Tensor:
        if self._gram_II is not None:
            return ((weight_OI @ self._gram_II).double() * weight_OI).sum(dim=1).clamp_min(0)
        assert self._sample_TI is not None
        return (self._sample_TI @ weight_OI.T).double().square().sum(dim=0)
