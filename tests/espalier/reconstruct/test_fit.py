"""Fitting a window: better or unchanged, zeros untouched, equal bits for equal seeds."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from espalier.recipe.steps.reconstruct import FitLoss
from espalier.reconstruct.fit import PATIENCE, Fit, FitPlan, Fitter, Window, fit
from espalier.training.rates import linear
from espalier.training.trainables import Trainable, window_trainables

STORED = {"0.weight": torch.bfloat16, "1.weight": torch.bfloat16, "1.bias": torch.bfloat16}


def _pruned(*, seed: int = 0, pruned: bool = True) -> tuple[nn.Module, list[Trainable], Window]:
    """A norm and a matrix, half of it pruned, beside the dense pair's outputs."""
    torch.manual_seed(seed)
    matrix = nn.Linear(16, 16)
    dense = nn.Sequential(nn.RMSNorm(16), matrix).bfloat16().float().requires_grad_(False)
    inputs = torch.randn(40, 4, 16) @ torch.randn(16, 16)
    targets = dense(inputs)
    mask = torch.rand(16, 16) < 0.5
    if pruned:
        matrix.weight.mul_(mask)  # leaves negative zeros behind
    items = window_trainables(
        dense,
        kinds=["weights", "norms", "biases"],
        masks={"1.weight": mask} if pruned else {},
        stored=STORED,
        among=set(STORED),
    )
    return (
        dense,
        items,
        Window(run=dense, trainables=items, inputs=inputs, targets=targets, power=float(targets.square().mean())),
    )


def _plan(rate: float | None = None, *, held_out: float = 0.25) -> FitPlan:
    return FitPlan(epochs=8, batch_size=4, validation_fraction=held_out, learning_rate=rate, seed=7)


@pytest.mark.parametrize("held_out", [0.0, 0.25])
def test_a_fit_lowers_the_error(held_out: float) -> None:
    _, items, window = _pruned()
    result = fit(window, _plan(held_out=held_out))
    assert {item.kind for item in items} == {"weights", "norms", "biases"}
    assert result.error_after < 0.8 * result.error_before
    assert result.learning_rate > 0


def test_pruned_weights_stay_positive_zeros_and_values_are_as_they_will_be_stored() -> None:
    module, items, window = _pruned()
    fit(window, _plan())
    weights = next(item for item in items if item.kind == "weights")
    assert weights.pruned is not None
    gone = weights.parameter[weights.pruned]
    assert not gone.any()
    assert not torch.signbit(gone).any()
    for parameter in module.parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())


# 100: so large that it wrecks the window; 1e38: not finite after one step; 1e-12: lost when rounded to bfloat16.
@pytest.mark.parametrize("rate", [100.0, 1e38, 1e-12])
def test_a_window_never_ends_worse_than_it_began(rate: float) -> None:
    module, items, window = _pruned()
    for item in items:
        item.hold_zeros()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    result = fit(window, _plan(rate))
    assert result == Fit(result.error_before, result.error_before, 0.0)
    for name, value in module.state_dict().items():
        assert torch.equal(value, start[name])


def test_a_window_without_loss_is_left_alone() -> None:
    module, _, window = _pruned(pruned=False)
    start = [parameter.clone() for parameter in module.parameters()]
    result = fit(window, _plan())
    assert result.error_before == result.error_after == 0
    assert all(torch.equal(old, new) for old, new in zip(start, module.parameters(), strict=True))


def test_equal_seeds_give_equal_bits() -> None:
    ends: list[list[torch.Tensor]] = []
    for _ in range(2):
        module, _, window = _pruned()
        torch.manual_seed(len(ends))  # whatever ran before must not matter
        fit(window, _plan())
        ends.append([parameter.detach().clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_schedule_warms_up_for_a_tenth_and_ends_near_zero() -> None:
    factors = [linear(step, steps=100) for step in range(100)]
    assert factors.index(max(factors)) == 10
    assert max(factors) == 1
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[-1] == pytest.approx(1 / 90)
    assert all(0 < factor <= 1 for steps in range(1, 25) for factor in (linear(s, steps=steps) for s in range(steps)))
    assert math.isclose(linear(0, steps=1), 1.0)


def test_a_fit_that_no_longer_improves_ends_early() -> None:
    _, _, window = _pruned()
    calls: list[int] = []

    def counting(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return run(inputs)

    run = window.run
    plan = FitPlan(epochs=50, batch_size=30, validation_fraction=0.25, learning_rate=1e-12, seed=7)
    fit(dataclasses.replace(window, run=counting), plan)
    assert sum(calls) == PATIENCE  # one step a pass, and none of them helps


def test_a_pass_sees_every_window_once_the_rest_of_the_last_batch_too() -> None:
    _, _, window = _pruned()
    run, seen = window.run, list[list[float]]()

    def watched(inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(inputs[:, 0, 0].tolist())  # tells a window from the others
        return run(inputs)

    plan = FitPlan(epochs=2, batch_size=4, validation_fraction=0.25, learning_rate=1e-3, seed=7)
    fit(dataclasses.replace(window, run=watched), plan)
    assert [len(batch) for batch in seen] == 2 * [4, 4, 4, 4, 4, 4, 4, 2]
    first, second = ({each for batch in seen[part] for each in batch} for part in (slice(8), slice(8, 16)))
    assert len(first) == 30
    assert first == second


def test_every_held_out_window_counts_the_same_the_rest_of_the_last_batch_too() -> None:
    window = _pruned()[2]
    whole = fit(window, dataclasses.replace(_plan(1e-12), batch_size=10))
    parts = fit(_pruned()[2], dataclasses.replace(_plan(1e-12), batch_size=4))  # of 4, 4 and 2 windows
    assert parts.error_before == pytest.approx(whole.error_before, rel=1e-6)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_the_gradient_of_a_loss_is_that_of_its_formula(loss: FitLoss) -> None:
    module, _, window = _pruned()
    plan = FitPlan(epochs=1, batch_size=40, validation_fraction=0.0, learning_rate=1.0, seed=7, loss=loss)
    fitter = Fitter(window, plan)
    error = fitter.loss(torch.arange(40))
    (gradient,) = torch.autograd.grad(error, module.get_parameter("1.weight"))
    x, t = window.inputs.double(), window.targets.double()
    z = x / (x.square().mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
    z = z * module.get_parameter("0.weight").double()
    y = z @ module.get_parameter("1.weight").double().T + module.get_parameter("1.bias").double()
    if loss == "mse":
        value, dy = ((y - t).square().mean() / window.power), 2 * (y - t) / y.numel() / window.power
    else:
        ny, nt = y.norm(dim=-1, keepdim=True), t.norm(dim=-1, keepdim=True)
        cosine = (y * t).sum(dim=-1, keepdim=True) / (ny * nt)
        value, dy = 1 - cosine.mean(), -(t / (ny * nt) - cosine * y / ny.square()) / cosine.numel()
    expected = dy.flatten(end_dim=-2).T @ z.flatten(end_dim=-2)
    assert error.item() == pytest.approx(value.item(), rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-7)


def test_the_cosine_is_fitted_too() -> None:
    _, _, window = _pruned()
    result = fit(window, dataclasses.replace(_plan(), loss="cosine"))
    assert 0 < result.error_after < 0.8 * result.error_before
