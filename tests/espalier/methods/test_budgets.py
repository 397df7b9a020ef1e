"""Budgets against tables and brute force; the mean over the weights is the request, whatever the shapes."""

from __future__ import annotations

import pytest
import torch

from espalier.methods.allocation import clip_to_pattern, mean, shift_to_mean
from espalier.methods.base import Budget, MatrixFacts
from espalier.methods.budgets.erdos_renyi import ErdosRenyi
from espalier.methods.budgets.lamp import LampBudget
from espalier.methods.budgets.owl import Owl, outlier_ratio
from espalier.methods.budgets.per_layer import PerLayer
from espalier.methods.criteria.lamp import lamp_scores
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.tiles import Tiles
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.input_norms import InputNorms

SHAPES = [(0, (8, 16)), (0, (4, 16)), (1, (8, 16)), (1, (16, 8)), (2, (24, 16))]


def _facts(seed: int = 0) -> list[MatrixFacts]:
    draws = torch.Generator().manual_seed(seed)
    facts = []
    for index, (block, shape) in enumerate(SHAPES):
        weight_OI = torch.randn(shape, generator=draws) ** (1 + 2 * block)
        norm_I = torch.rand(shape[1], generator=draws).double() + 0.1
        seen: Statistics = {InputNorms: norm_I}
        facts.append(MatrixFacts(f"layers.{block}.m{index}", block, shape, lambda w=weight_OI: w, seen))  # type: ignore[misc]
    return facts


@pytest.mark.parametrize("budget", [Owl(), Owl(threshold=2, bound=0.5), LampBudget(), ErdosRenyi()])
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.7, 0.9, 0.99])
def test_the_mean_over_the_weights_is_the_request_and_no_share_leaves_the_interval(
    budget: Budget, sparsity: float
) -> None:
    facts = _facts()
    shares = budget.sparsities(sparsity, facts)
    total = sum(matrix.size for matrix in facts)
    assert mean(shares, facts) == pytest.approx(sparsity, abs=1.01 / total if isinstance(budget, LampBudget) else 1e-9)
    assert all(0 <= fraction < 1 for fraction in shares.values())


def test_owl_follows_the_outlier_ratio_of_its_blocks() -> None:
    facts = _facts()
    budget = Owl(threshold=2, bound=0.1)
    ratios = []
    for block in range(3):
        scores = torch.cat(
            [(m.load().double().abs() * m.statistics[InputNorms]).flatten() for m in facts if m.block == block]
        )
        ratios.append(sum(float(s) > 2 * float(scores.mean()) for s in scores) / len(scores))
        assert outlier_ratio([m for m in facts if m.block == block], 2) == pytest.approx(ratios[-1])
    shares = budget.sparsities(0.6, facts)
    by_block = {matrix.block: shares[matrix.name] for matrix in facts}
    assert [shares[matrix.name] == by_block[matrix.block] for matrix in facts] == [True] * len(facts)
    spread = (max(ratios) - min(ratios)) / 0.2
    for one in range(3):
        for other in range(3):
            assert by_block[one] - by_block[other] == pytest.approx((ratios[other] - ratios[one]) / spread, abs=1e-9)


def test_owl_moves_n_from_block_to_block_and_the_mean_stays() -> None:
    facts = [MatrixFacts(f"{b}", b, (8, 16)) for b in range(4)]
    raw = {"0": 0.30, "1": 0.45, "2": 0.55, "3": 0.70}
    assert clip_to_pattern(raw, facts, 0.5, NOfM(n=2, m=4)) == {"0": 0.25, "1": 0.5, "2": 0.5, "3": 0.75}
    assert clip_to_pattern(raw, facts, 0.5, NOfM(n=4, m=8)) == {"0": 0.25, "1": 0.5, "2": 0.5, "3": 0.75}
    assert clip_to_pattern(raw, facts, 0.5, Unstructured()) == raw


def test_a_group_of_n_of_m_never_loses_everything() -> None:
    facts = [MatrixFacts(f"{b}", b, (8, 16)) for b in range(2)]
    shares = clip_to_pattern({"0": 0.55, "1": 0.95}, facts, 0.75, NOfM(n=1, m=4))
    assert shares == {"0": 0.75, "1": 0.75}


def test_a_budget_above_what_tiles_can_give_is_clipped_and_made_up_for() -> None:
    facts = [MatrixFacts(f"{b}", b, (8, 16)) for b in range(2)]
    shares = clip_to_pattern({"0": 0.3, "1": 0.6}, facts, 0.45, Tiles(rest="nm"))
    assert shares["1"] == 0.5
    assert mean(shares, facts) == pytest.approx(0.45)


def test_lamp_counts_what_one_threshold_over_all_scores_prunes() -> None:
    facts = _facts()
    scores = {matrix.name: lamp_scores(matrix.load()).float() for matrix in facts}
    total = sum(matrix.size for matrix in facts)
    threshold = torch.cat([score.flatten() for score in scores.values()]).sort().values[round(0.6 * total)]
    expected = {name: float((score < threshold).double().mean()) for name, score in scores.items()}
    assert LampBudget().sparsities(0.6, facts) == pytest.approx(expected, abs=1e-12)


def test_erdos_renyi_densities_are_proportional_to_inputs_plus_outputs_over_their_product() -> None:
    facts = _facts()
    shares = ErdosRenyi().sparsities(0.8, facts)
    factors = [
        (1 - shares[matrix.name]) * matrix.size / sum(matrix.shape) for matrix in facts if shares[matrix.name] > 0
    ]
    assert factors == pytest.approx([factors[0]] * len(factors))


def test_erdos_renyi_leaves_dense_what_its_factor_would_overfill() -> None:
    facts = [MatrixFacts("narrow", 0, (2, 64)), MatrixFacts("wide", 0, (64, 64))]
    shares = ErdosRenyi().sparsities(0.3, facts)
    assert shares["narrow"] == 0
    assert mean(shares, facts) == pytest.approx(0.3)


def test_shares_that_leave_the_interval_are_clipped_and_the_others_make_up_for_it() -> None:
    facts = [MatrixFacts(name, 0, (4, 4)) for name in "abc"]
    shares = shift_to_mean({"a": -0.4, "b": 0.5, "c": 1.4}, facts, 0.5)
    assert shares["a"] == 0
    assert shares["c"] == 0.999
    assert mean(shares, facts) == pytest.approx(0.5)


def test_hand_written_shares_are_followed_by_block_or_by_the_longest_name() -> None:
    facts = _facts()
    by_block = PerLayer(values=[0.1, 0.2, 0.3])
    assert list(by_block.sparsities(0.5, facts).values()) == [0.1, 0.1, 0.2, 0.2, 0.3]
    by_name = PerLayer(values={"m2": 0.9, "layers.1.m2": 0.4, "m0": 0.2})
    assert list(by_name.sparsities(0.5, facts).values()) == [0.2, 0.5, 0.4, 0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 0.5], "2 shares for 3 blocks"),
        ([0.5, 0.5, 0.6], "mean 0.54"),
        ({"nothing": 0.5}, "fits no pruned matrix"),
        ({"m0": 0.9}, "mean 0.5"),
    ],
)
def test_hand_written_shares_that_do_not_fit_are_refused(values: object, words: str) -> None:
    refusal = PerLayer.model_validate({"values": values}).refusal(0.5, _facts())
    assert refusal is not None
    assert words in refusal
