"""What every pattern promises; a newcomer is tested without an edit here."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.base import Pattern
from espalier.model.numerics import generator
from tests.contracts.layers import EVERY_PATTERN, share_of

KINDS = pytest.mark.parametrize("pattern", EVERY_PATTERN, ids=lambda pattern: pattern.label())


def _scores() -> torch.Tensor:
    return torch.rand(24, 32, generator=generator(0, "scores"))


@KINDS
def test_the_share_pruned_is_exact_up_to_the_pattern_s_rounding_and_the_scores_are_left_alone(pattern: Pattern) -> None:
    score_OI = _scores()
    before = score_OI.clone()
    mask_OI = pattern.keep(score_OI, sparsity=share_of(pattern))
    assert mask_OI.dtype == torch.bool
    assert mask_OI.shape == score_OI.shape
    achieved = float((~mask_OI).double().mean())
    assert achieved == pytest.approx(share_of(pattern), abs=pattern.step((24, 32)) / 2 + 1e-9)
    assert torch.equal(score_OI, before)


@KINDS
def test_what_is_kept_does_not_depend_on_the_scale_of_the_scores(pattern: Pattern) -> None:
    score_OI = _scores()
    sparsity = share_of(pattern)
    assert torch.equal(pattern.keep(score_OI, sparsity=sparsity), pattern.keep(score_OI * 8, sparsity=sparsity))


@KINDS
def test_of_equal_scores_the_lower_input_index_goes_first(pattern: Pattern) -> None:
    sparsity = share_of(pattern)
    mask_OI = pattern.keep(torch.ones(4, 256), sparsity=sparsity)
    assert not bool(mask_OI[:, 0].any())
    assert bool(mask_OI[:, -1].all())


@KINDS
def test_raising_one_score_never_loses_that_weight(pattern: Pattern) -> None:
    score_OI = _scores()
    sparsity = share_of(pattern)
    score_OI[3, 5] = 1e3
    assert bool(pattern.keep(score_OI, sparsity=sparsity)[3, 5])


@KINDS
def test_a_mask_scored_by_itself_is_kept(pattern: Pattern) -> None:
    mask_OI = pattern.keep(_scores(), sparsity=share_of(pattern))
    assert torch.equal(pattern.keep(mask_OI.float(), sparsity=share_of(pattern)), mask_OI)


@KINDS
def test_lines_are_whole_and_keep_equal_counts(pattern: Pattern) -> None:
    line = pattern.line((24, 32))
    if line is not None:
        assert 24 * 32 % line == 0
        counts = pattern.keep(_scores(), sparsity=share_of(pattern)).view(-1, line).sum(dim=1)
        assert len(set(counts.tolist())) == 1


@KINDS
def test_nothing_goes_at_zero_and_the_ceiling_can_be_reached(pattern: Pattern) -> None:
    if pattern.implied_sparsity() is None:
        assert bool(pattern.keep(_scores(), sparsity=0.0).all())
    ceiling = pattern.ceiling()
    assert int((~pattern.keep(_scores(), sparsity=ceiling)).sum()) == round(ceiling * 24 * 32)
    assert share_of(pattern) <= ceiling <= 1


@KINDS
def test_it_has_a_label_and_equal_scores_give_equal_masks(pattern: Pattern) -> None:
    assert pattern.label()
    assert pattern.label_at(share_of(pattern)) == pattern.label()
    first, again = (pattern.keep(_scores(), sparsity=share_of(pattern)) for _ in range(2))
    assert torch.equal(first, again)
