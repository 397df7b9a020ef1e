"""The training loop: what moves, what a stopped run goes on to, what a diverged one keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from espalier.model.layout import find_stack
from espalier.model.numerics import generator
from espalier.retrain.train import Best, DivergedError, Order, Trainer, TrainingPlan, held_out_loss
from espalier.training.lora import MaskLora
from espalier.training.trainables import Trainable, Unfreezing, freeze, norms_and_biases
from tests.fixtures.library.tiny_configs import LLAMA, OPT

RATES = {"norms": 1e-2, "biases": 1e-2, "mask_lora": 1e-2}


def _model(config: PreTrainedConfig) -> tuple[nn.Module, list[Trainable]]:
    """A random model with norms, biases and one adapter for every matrix of its blocks trainable."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    freeze(model)
    kinds, unfreeze = ["norms", "biases"], Unfreezing(model).unfreeze
    items = [Trainable(name, kind, unfreeze(name)) for name, kind, _ in norms_and_biases(model, kinds)]
    stack, blocks = find_stack(model)
    linears = [name for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]
    for local in linears:
        name = f"{stack}.{local}"
        base = model.get_submodule(name)
        mask = torch.rand(base.weight.shape, generator=generator(0, "mask", name)) < 0.5
        base.weight.data.masked_fill_(~mask, 0)
        adapter = MaskLora(base, mask, rank=2, alpha=4, generator=generator(0, "lora", name))
        model.set_submodule(name, adapter)
        items.append(Trainable(f"{name}.lora_a", "mask_lora", adapter.a_RI))
        items.append(Trainable(f"{name}.lora_b", "mask_lora", adapter.b_OR))
    return model, items


def _text() -> torch.Tensor:
    """Windows in which the next token is easily told: the last one plus three."""
    starts = torch.randint(48, (24, 1), generator=generator(0, "text"))
    return (starts + 3 * torch.arange(16)) % 48


def _trainer(config: PreTrainedConfig, *, accumulate: int = 1) -> Trainer:
    model, items = _model(config)
    plan = TrainingPlan(steps=25, batch_size=4 // accumulate, accumulate=accumulate, seed=3, rates=RATES)
    return Trainer(model, items, _text(), plan)


def _values(trainer: Trainer) -> list[torch.Tensor]:
    return [item.parameter.detach().clone() for item in trainer.trainables]


@pytest.mark.parametrize("config", [LLAMA, OPT], ids=["llama", "opt"])
def test_training_lowers_the_held_out_loss_and_moves_nothing_else(config: PreTrainedConfig) -> None:
    trainer = _trainer(config)
    moving = {id(item.parameter) for item in trainer.trainables}
    rest = {
        name: parameter.clone() for name, parameter in trainer.model.named_parameters() if id(parameter) not in moving
    }
    before = held_out_loss(trainer.model, _text()[:4], batch_size=3)
    points = [trainer.advance() for _ in range(25)]
    assert held_out_loss(trainer.model, _text()[:4], batch_size=3) < before - 0.05
    assert [point.step for point in points] == list(range(25))
    now = dict(trainer.model.named_parameters())
    assert rest
    assert all(torch.equal(now[name], value) for name, value in rest.items())


@pytest.mark.parametrize("windows", [3, 2, 1])
def test_a_batch_in_parts_makes_the_step_of_the_whole_one(windows: int) -> None:
    whole, parts = _trainer(LLAMA), _trainer(LLAMA)
    parts.plan = replace(parts.plan, micro_batch=windows)
    for trainer in (whole, parts):
        trainer.model.double()
    for _ in range(3):
        expected, reached = whole.advance(), parts.advance()
        assert reached.loss == pytest.approx(expected.loss, rel=1e-6)
    for expected_value, value in zip(_values(whole), _values(parts), strict=True):
        assert torch.allclose(value, expected_value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 17])
def test_a_stopped_run_goes_on_to_the_same_bits(stop: int) -> None:
    whole = _trainer(LLAMA)
    for _ in range(stop):
        whole.advance()
    best = Best.at_start(whole.trainables, 3.0)
    best.update_if_better(whole.trainables, step=stop, loss=2.0)
    best.update_if_better(whole.trainables, step=stop, loss=2.5)
    saved = {name: tensor.clone() for name, tensor in whole.state(best).items()}
    for _ in range(25 - stop):
        whole.advance()
    resumed = _trainer(LLAMA)
    again = resumed.load(saved)
    assert (again.step, again.loss, again.checks_since) == (stop, 2.0, 1)
    assert all(torch.equal(a, b) for a, b in zip(again.values, best.values, strict=True))
    torch.manual_seed(99)  # whatever ran before must not matter
    while resumed.step < 25:
        resumed.advance()
    assert all(torch.equal(a, b) for a, b in zip(_values(whole), _values(resumed), strict=True))
    ends = whole.state(best), resumed.state(again)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_accumulated_micro_batches_are_one_batch() -> None:
    at_once, in_parts = _trainer(OPT), _trainer(OPT, accumulate=2)
    for _ in range(3):
        assert at_once.advance().loss == pytest.approx(in_parts.advance().loss, rel=1e-4)


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    trainer = _trainer(LLAMA)
    for _ in range(12):
        trainer.advance()
    with torch.no_grad():
        trainer.trainables[0].parameter.fill_(float("nan"))
    before = _values(trainer)[1:]
    with pytest.raises(DivergedError) as caught:
        trainer.advance()
    assert caught.value.step == trainer.step == 12
    assert all(torch.equal(a, b) for a, b in zip(_values(trainer)[1:], before, strict=True))


def test_the_best_state_is_the_lowest_finite_loss() -> None:
    trainer = _trainer(LLAMA)
    best = Best.at_start(trainer.trainables, float("nan"))
    for loss in (4.0, float("nan"), 5.0):
        trainer.advance()
        best.update_if_better(trainer.trainables, step=trainer.step, loss=loss)
    assert (best.step, best.loss, best.checks_since) == (1, 4.0, 2)
    first = _trainer(LLAMA)
    first.advance()
    assert all(torch.equal(a, b) for a, b in zip(best.values, _values(first), strict=True))


def test_every_window_comes_once_in_a_pass_and_passes_differ() -> None:
    order = Order(24, seed=5)
    first, second = [order[i] for i in range(24)], [order[i] for i in range(24, 48)]
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert [Order(24, seed=5)[i] for i in range(24, 48)] == second
    assert [Order(24, seed=6)[i] for i in range(24)] != first


def test_dropout_that_is_on_is_refused() -> None:
    model, items = _model(OPT)
    with pytest.raises(AssertionError, match="dropout"):
        Trainer(model.train(), items, _text(), TrainingPlan(steps=1, batch_size=1, rates=RATES))


def test_norms_and_biases_are_found_by_their_shape() -> None:
    llama, opt = (AutoModelForCausalLM.from_config(config) for config in (LLAMA, OPT))
    # Two norms a block and the last one.
    assert sum(p.numel() for _, _, p in norms_and_biases(llama, ["norms"])) == 5 * 32
    assert norms_and_biases(llama, ["biases"]) == []
    assert sum(p.numel() for _, _, p in norms_and_biases(opt, ["norms"])) == 5 * 32
    # Per block: q, k, v, o, fc2 and two norms of width 32, fc1 of 48; and the last norm.
    assert sum(p.numel() for _, _, p in norms_and_biases(opt, ["biases"])) == 2 * (7 * 32 + 48) + 32


@pytest.mark.parametrize(
    ("family", "norms", "biases"),
    [
        ("qwen2", 5 * 32, 2 * (32 + 16 + 16)),  # biases on q, k and v alone
        ("qwen3", 5 * 32 + 2 * 2 * 8, 0),  # norms of queries and keys
        ("gemma2", 9 * 32, 0),  # four norms a block
    ],
)
def test_no_family_s_own_norm_class_is_missed(family: str, norms: int, biases: int) -> None:
    sizes = LLAMA.to_dict()
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    config = AutoConfig.for_model(family, head_dim=8, **{name: sizes[name] for name in names})
    model = AutoModelForCausalLM.from_config(config)
    counted = [sum(p.numel() for _, _, p in norms_and_biases(model, [kind])) for kind in ("norms", "biases")]
    assert counted == [norms, biases]
