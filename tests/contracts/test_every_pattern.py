"""What every pattern promises; a newcomer is tested without an edit here."""

from __future__ import annotations

import pytest
import torch

from app.specs.job import CompressionSpec
from app.specs.prune import PATTERNS
from workers.engine.numerics import generator
from workers.methods.base import Pattern

KINDS = pytest.mark.parametrize("pattern", [kind() for kind in PATTERNS.values()], ids=list(PATTERNS))


def _share(pattern: Pattern) -> float:
    implied = pattern.implied_sparsity()
    return 0.5 if implied is None else implied


def _scores() -> torch.Tensor:
    return torch.rand(24, 32, generator=generator(0, "scores"))


@KINDS
def test_the_share_pruned_is_exact_and_the_scores_are_left_alone(pattern: Pattern) -> None:
    score_OI = _scores()
    before = score_OI.clone()
    mask_OI = pattern.keep(score_OI, sparsity=_share(pattern))
    assert mask_OI.dtype == torch.bool
    assert mask_OI.shape == score_OI.shape
    assert int((~mask_OI).sum()) == round(_share(pattern) * score_OI.numel())
    assert torch.equal(score_OI, before)


@KINDS
def test_what_is_kept_does_not_depend_on_the_scale_of_the_scores(pattern: Pattern) -> None:
    score_OI = _scores()
    share = _share(pattern)
    assert torch.equal(pattern.keep(score_OI, sparsity=share), pattern.keep(score_OI * 8, sparsity=share))


@KINDS
def test_of_equal_scores_the_lower_input_index_goes_first(pattern: Pattern) -> None:
    share = _share(pattern)
    mask_OI = pattern.keep(torch.ones(4, 256), sparsity=share)
    assert not bool(mask_OI[:, 0].any())
    assert bool(mask_OI[:, -1].all())


@KINDS
def test_raising_one_score_never_loses_that_weight(pattern: Pattern) -> None:
    score_OI = _scores()
    share = _share(pattern)
    kept = pattern.keep(score_OI, sparsity=share)
    score_OI[3, 5] = 2.0
    assert bool(pattern.keep(score_OI, sparsity=share)[3, 5])
    assert int((pattern.keep(score_OI, sparsity=share) != kept).sum()) <= 2


@KINDS
def test_it_stands_in_a_spec_and_has_a_label(pattern: Pattern) -> None:
    prune = {"method": "magnitude", "sparsity": _share(pattern), "pattern": pattern.model_dump()}
    assert CompressionSpec.model_validate({"prune": prune}).prune[0].pattern == pattern
    assert pattern.label()
    assert pattern.summary
