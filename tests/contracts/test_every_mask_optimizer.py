"""What every mask optimizer promises; a newcomer is tested without an edit here."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from espalier.methods.base import Axes, MaskOptimizer, Pattern
from espalier.recipe.steps.prune import BUDGETS, CRITERIA, OPTIMIZERS
from tests.contracts.cells import variants
from tests.contracts.layers import (
    EVERY_PATTERN,
    INPUTS,
    OUTPUTS,
    Recorded,
    error,
    frozen,
    masked,
    tensors_of,
    untouched,
)

EVERY = [kind.model_validate(choice) for kind in OPTIMIZERS.values() for choice in variants(kind, "kind")]
KINDS = pytest.mark.parametrize("optimizer", EVERY, ids=str)


def _takes(optimizer: MaskOptimizer, pattern: Pattern) -> bool:
    return not optimizer.incompatible_with(
        Axes(CRITERIA["magnitude"](), pattern, BUDGETS["uniform"](), optimizer, None)
    )


@KINDS
def test_masks_keep_pattern_and_counts_and_never_lose_more(optimizer: MaskOptimizer) -> None:
    patterns = [pattern for pattern in EVERY_PATTERN if _takes(optimizer, pattern)]
    assert patterns
    for pattern in patterns:
        layer = masked(optimizer.statistics, pattern)
        mask_OI = optimizer.improve(layer)
        assert mask_OI.dtype == torch.bool
        assert torch.equal(pattern.keep(mask_OI.float(), sparsity=layer.sparsity), mask_OI)
        line = pattern.line((OUTPUTS, INPUTS)) or INPUTS
        assert torch.equal(mask_OI.reshape(-1, line).sum(dim=1), layer.mask_OI.reshape(-1, line).sum(dim=1))
        before, after = (error(layer, layer.weight_OI * mask).sum() for mask in (layer.mask_OI, mask_OI))
        assert float(after) <= float(before) * (1 + 1e-6)


@KINDS
@pytest.mark.parametrize("rows", [1, OUTPUTS])
def test_equal_layers_give_equal_masks_and_nothing_is_changed_in_place(optimizer: MaskOptimizer, rows: int) -> None:
    for pattern in EVERY_PATTERN:
        if _takes(optimizer, pattern):
            layer = masked(optimizer.statistics, pattern, rows=rows)
            before = frozen(*tensors_of(layer))
            mask_OI = optimizer.improve(layer)
            assert untouched(before)
            assert torch.equal(mask_OI, optimizer.improve(masked(optimizer.statistics, pattern, rows=rows)))


@KINDS
def test_it_reads_what_it_declares_and_nothing_else(optimizer: MaskOptimizer) -> None:
    layer = masked(optimizer.statistics, EVERY_PATTERN[-1])
    optimizer.improve(layer)
    assert isinstance(layer.statistics, Recorded)
    assert layer.statistics.read == set(optimizer.statistics)


@KINDS
def test_what_an_earlier_step_has_pruned_stays_pruned_and_where_nothing_is_pruned_nothing_moves(
    optimizer: MaskOptimizer,
) -> None:
    for pattern in EVERY_PATTERN:
        if _takes(optimizer, pattern):
            layer = masked(optimizer.statistics, pattern)
            gone_OI = ~layer.mask_OI & (torch.arange(INPUTS) % 3 == 0)
            earlier = replace(layer, score_OI=layer.score_OI.masked_fill(gone_OI, -torch.inf))
            assert not bool((optimizer.improve(earlier) & gone_OI).any())
            if pattern.implied_sparsity() is None:
                assert bool(optimizer.improve(masked(optimizer.statistics, pattern, sparsity=0.0)).all())
