"""Swaps and Frank-Wolfe against float64 brute force: exact changes, exact budgets, never worse."""

from __future__ import annotations

import itertools

import pytest
import torch

from espalier.methods.base import MaskOptimizer, MaskProblem, Pattern
from espalier.methods.mask_error import mask_errors
from espalier.methods.mask_optimizers import sparsefw
from espalier.methods.mask_optimizers.sparsefw import SparseFw
from espalier.methods.mask_optimizers.sparseswaps import SparseSwaps
from espalier.methods.patterns.nm import NOfM
from espalier.methods.patterns.unstructured import Unstructured
from espalier.methods.statistic import Statistics
from espalier.methods.statistics.gram import Gram

PATTERNS: list[Pattern] = [Unstructured(), Unstructured(scope="matrix"), NOfM(n=2, m=4), NOfM(n=1, m=4), NOfM(n=4, m=8)]


def _case(outputs: int = 12, inputs: int = 16, seed: int = 0) -> tuple[torch.Tensor, Statistics, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    mix_II = torch.eye(inputs) + 0.6 * torch.randn(inputs, inputs, generator=draws)
    input_TI = torch.randn(200, inputs, generator=draws) @ mix_II * torch.rand(inputs, generator=draws)
    gram_II = input_TI.T @ input_TI
    norm_I = gram_II.diagonal().double().sqrt()
    weight_OI = torch.randn(outputs, inputs, generator=draws)
    return weight_OI, {Gram: gram_II}, weight_OI.abs() * norm_I


def _improved(
    optimizer: MaskOptimizer,
    weight_OI: torch.Tensor,
    mask_OI: torch.Tensor,
    score_OI: torch.Tensor,
    seen: Statistics,
    *,
    pattern: Pattern,
    sparsity: float,
) -> torch.Tensor:
    problem = MaskProblem(weight_OI, seen, torch.Generator(), mask_OI, score_OI, pattern, sparsity)
    return optimizer.improve(problem)


def _share(pattern: Pattern) -> float:
    implied = pattern.implied_sparsity()
    return 0.6 if implied is None else implied


def _errors(weight_OI: torch.Tensor, mask_OI: torch.Tensor, seen: Statistics) -> torch.Tensor:
    lost_OI = weight_OI.double() * ~mask_OI
    return (lost_OI @ seen[Gram].double() * lost_OI).sum(dim=1)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label())
@pytest.mark.parametrize("optimizer", [SparseSwaps(), SparseFw(), SparseFw(alpha="grid", iterations=40)], ids=str)
def test_masks_keep_pattern_and_budget_and_lose_less(optimizer: MaskOptimizer, pattern: Pattern) -> None:
    for seed in range(3):
        weight_OI, seen, score_OI = _case(seed=seed)
        start_OI = pattern.keep(score_OI, sparsity=_share(pattern))
        copies = weight_OI.clone(), start_OI.clone(), score_OI.clone()
        found_OI = _improved(optimizer, weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=_share(pattern))
        assert all(map(torch.equal, copies, (weight_OI, start_OI, score_OI)))
        line = pattern.line((12, 16))
        assert line is not None
        assert torch.equal(found_OI.reshape(-1, line).sum(dim=1), start_OI.reshape(-1, line).sum(dim=1))
        before, after = _errors(weight_OI, start_OI, seen), _errors(weight_OI, found_OI, seen)
        if line <= 16:
            assert bool((after <= before * (1 + 1e-6)).all())
        assert float(after.sum()) < 0.99 * float(before.sum())


@pytest.mark.parametrize("pattern", [Unstructured(), NOfM(n=2, m=4), NOfM(n=4, m=8)], ids=lambda p: p.label())
def test_one_swap_is_the_best_of_all_that_the_pattern_allows(pattern: Pattern) -> None:
    weight_OI, seen, score_OI = _case()
    start_OI = pattern.keep(score_OI, sparsity=_share(pattern))
    found_OI = _improved(
        SparseSwaps(iterations=1), weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=_share(pattern)
    )
    line = pattern.line((12, 16)) or 0
    after = _errors(weight_OI, found_OI, seen)
    for row in range(12):
        errors = [float(_errors(weight_OI, start_OI, seen)[row])]
        for p, u in itertools.product(range(16), range(16)):
            if start_OI[row, p] and not start_OI[row, u] and p // line == u // line:
                tried_OI = start_OI.clone()
                tried_OI[row, p], tried_OI[row, u] = False, True
                errors.append(float(_errors(weight_OI, tried_OI, seen)[row]))
        assert float(after[row]) == pytest.approx(min(errors), rel=1e-5)


def test_swaps_end_where_no_swap_gains() -> None:
    weight_OI, seen, score_OI = _case()
    pattern = Unstructured()
    start_OI = pattern.keep(score_OI, sparsity=0.5)
    found_OI = _improved(SparseSwaps(), weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=0.5)
    again_OI = _improved(SparseSwaps(), weight_OI, found_OI, score_OI, seen, pattern=pattern, sparsity=0.5)
    assert torch.equal(found_OI, again_OI)


def test_more_candidates_than_the_lists_hold_still_gain() -> None:
    weight_OI, seen, score_OI = _case(outputs=3, inputs=200)
    pattern = Unstructured()
    start_OI = pattern.keep(score_OI, sparsity=0.5)
    found_OI = _improved(SparseSwaps(iterations=5), weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=0.5)
    assert int((found_OI != start_OI).sum()) == 3 * 5 * 2
    assert bool((_errors(weight_OI, found_OI, seen) < _errors(weight_OI, start_OI, seen)).all())


def test_batches_of_rows_give_the_masks_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI, seen, score_OI = _case(outputs=40)
    for pattern in (Unstructured(), NOfM(n=2, m=4)):
        start_OI = pattern.keep(score_OI, sparsity=0.5)
        for optimizer in (SparseSwaps(), SparseFw(iterations=30)):
            masks = []
            for size in (2**24, 16 * 16 * 3):
                monkeypatch.setattr(f"{type(optimizer).__module__}.BATCH_ELEMENTS", size)
                masks.append(_improved(optimizer, weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=0.5))
            assert torch.equal(*masks)


@pytest.mark.parametrize("optimizer", [SparseSwaps(), SparseFw(iterations=20), SparseFw(alpha=0.0, iterations=20)])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.label())
def test_what_an_earlier_step_has_pruned_stays_pruned(optimizer: MaskOptimizer, pattern: Pattern) -> None:
    weight_OI, seen, score_OI = _case()
    gone_OI = NOfM(n=3, m=4).keep(score_OI, sparsity=0.25).logical_not()
    weight_OI, score_OI = weight_OI.masked_fill(gone_OI, 0), score_OI.masked_fill(gone_OI, -torch.inf)
    start_OI = pattern.keep(score_OI, sparsity=_share(pattern)) & ~gone_OI
    found_OI = _improved(optimizer, weight_OI, start_OI, score_OI, seen, pattern=pattern, sparsity=_share(pattern))
    assert not bool((found_OI & gone_OI).any())
    assert int(found_OI.sum()) == int(start_OI.sum())


def test_nothing_happens_where_nothing_can_be_won() -> None:
    weight_OI, seen, score_OI = _case()
    silent: Statistics = {Gram: torch.zeros_like(seen[Gram])}
    for optimizer in (SparseSwaps(), SparseFw(iterations=5)):
        for sparsity, known in ((0.0, seen), (0.5, silent)):
            start_OI = Unstructured().keep(score_OI, sparsity=sparsity)
            found_OI = _improved(
                optimizer, weight_OI, start_OI, score_OI, known, pattern=Unstructured(), sparsity=sparsity
            )
            assert torch.equal(found_OI, start_OI)


def _reference_frank_wolfe(
    weight_OI: torch.Tensor, mask_OI: torch.Tensor, fixed_OI: torch.Tensor, gram_II: torch.Tensor, steps: int
) -> torch.Tensor:
    """Algorithm 2 with the fixed part in the gradient, row by row, in loops of float64."""
    weight, gram = weight_OI.double(), gram_II.double()
    result = torch.zeros_like(mask_OI)
    for row in range(len(weight)):
        w, fixed = weight[row], fixed_OI[row].double()
        budget = int(mask_OI[row].sum() - fixed.sum())
        m = mask_OI[row].double() - fixed
        for t in range(steps):
            gradient = -2 * w * (gram @ (w - (m + fixed) * w))
            order = sorted((g, j) for j, g in enumerate(gradient.tolist()) if not fixed_OI[row, j] and g < 0)
            vertex = torch.zeros_like(m)
            vertex[[j for _, j in order[:budget]]] = 1
            m = m + 2 / (t + 2) * (vertex - m)
        order = sorted((-x, j) for j, x in enumerate(m.tolist()) if not fixed_OI[row, j])
        result[row] = fixed_OI[row]
        result[row, [j for _, j in order[:budget]]] = True
    return result


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.9])
def test_frank_wolfe_is_the_algorithm_with_the_fixed_part_in_its_gradient(alpha: float) -> None:
    weight_OI, seen, score_OI = _case()
    start_OI = Unstructured().keep(score_OI, sparsity=0.5)
    fixed_OI = sparsefw.fixed_entries(start_OI, score_OI, alpha, whole=False)
    assert fixed_OI.sum(dim=1).tolist() == [int(8 * alpha)] * 12
    found_OI = sparsefw.frank_wolfe(
        weight_OI, start_OI, fixed_OI, torch.zeros_like(fixed_OI), seen[Gram], line=16, iterations=15
    )
    assert torch.equal(found_OI, _reference_frank_wolfe(weight_OI, start_OI, fixed_OI, seen[Gram], 15))


def test_the_gradient_that_frank_wolfe_follows_is_that_of_the_error() -> None:
    weight_OI, seen, _ = _case(outputs=2)
    weight, gram = weight_OI.double(), seen[Gram].double()
    relaxed = torch.rand(2, 16, dtype=torch.float64, requires_grad=True)
    lost = weight - relaxed * weight
    (lost @ gram * lost).sum().backward()  # type: ignore[no-untyped-call]
    assert relaxed.grad is not None
    torch.testing.assert_close(relaxed.grad, (-2 * weight * (weight @ gram - (weight * relaxed) @ gram)).detach())


def test_without_the_fixed_part_in_the_gradient_frank_wolfe_ends_far_worse() -> None:
    weight_OI, seen, score_OI = _case(outputs=32, inputs=64)
    start_OI = Unstructured().keep(score_OI, sparsity=0.6)
    fixed_OI = sparsefw.fixed_entries(start_OI, score_OI, 0.5, whole=False)
    free = torch.zeros_like(fixed_OI)
    right = sparsefw.frank_wolfe(weight_OI, start_OI, fixed_OI, free, seen[Gram], line=64, iterations=200)
    # The trap: the free part chosen as if the fixed weights were pruned.
    wrong = _wrong_frank_wolfe(weight_OI, start_OI, fixed_OI, seen[Gram])
    start, good, bad = (float(mask_errors(weight_OI, mask, seen[Gram]).sum()) for mask in (start_OI, right, wrong))
    assert good < start < bad


def _wrong_frank_wolfe(
    weight_OI: torch.Tensor, mask_OI: torch.Tensor, fixed_OI: torch.Tensor, gram_II: torch.Tensor
) -> torch.Tensor:
    target, relaxed = weight_OI @ gram_II, (mask_OI & ~fixed_OI).float()
    budget = int((mask_OI & ~fixed_OI).sum(dim=1)[0])
    for step in range(200):
        gain = (weight_OI * (target - (weight_OI * relaxed) @ gram_II)).masked_fill(fixed_OI, 0)
        value, index = gain.topk(budget, dim=1)
        vertex = torch.zeros_like(relaxed).scatter_(1, index, (value > 0).float())
        relaxed = torch.lerp(relaxed, vertex, 2 / (step + 2))
    index = relaxed.masked_fill(fixed_OI, -1).topk(budget, dim=1).indices
    return fixed_OI | torch.zeros_like(fixed_OI).scatter_(1, index, True)
