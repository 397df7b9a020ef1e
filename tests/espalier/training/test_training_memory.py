"""What a training step holds at most, in measured allocations, beside a forward pass alone and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from espalier.model.layout import find_stack
from espalier.model.numerics import generator
from espalier.retrain.train import Trainer, TrainingPlan
from espalier.training.lora import MaskLora
from espalier.training.losses import language_loss
from espalier.training.recompute import recomputing
from espalier.training.trainables import Trainable, Unfreezing, freeze, norms_and_biases

VOCABULARY = 512
TOKENS = torch.randint(VOCABULARY, (8, 128), generator=generator(0, "tokens"))


def _config(width: int, blocks: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


def _peak(run: Callable[[], object]) -> int:
    """The most bytes that are live at once of those that a call allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _size(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _model(config: LlamaConfig, dtype: torch.dtype) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    freeze(model)
    return model


def _adapt(model: nn.Module) -> list[Trainable]:
    stack, blocks = find_stack(model)
    items = []
    for local in [name for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]:
        base = model.get_submodule(f"{stack}.{local}")
        assert isinstance(base, nn.Linear)
        mask = torch.rand((base.out_features, base.in_features), generator=generator(0, "mask", local)) < 0.5
        adapter = MaskLora(base, mask, rank=16, alpha=32, generator=generator(0, "lora", local))
        model.set_submodule(f"{stack}.{local}", adapter)
        items += [Trainable(f"{local}.{n}", "mask_lora", p) for n, p in (("a", adapter.a_RI), ("b", adapter.b_OR))]
    return items


@pytest.mark.numbers
@pytest.mark.parametrize(
    ("kind", "dtype", "width", "blocks", "limit"),
    [
        ("norms", torch.float32, 1024, 4, 1.15),
        ("norms", torch.bfloat16, 1024, 4, 1.15),
        ("mask_lora", torch.float32, 1024, 4, 1.3),
        # Beside bfloat16 weights the factors' float32 state weighs 200 / width.
        ("mask_lora", torch.bfloat16, 2048, 8, 1.3),
    ],
)
def test_a_step_holds_little_more_than_a_forward_pass(
    kind: str, dtype: torch.dtype, width: int, blocks: int, limit: float
) -> None:
    config = _config(width, blocks)
    model = _model(config, dtype)
    weights = _size(list(model.parameters()))
    batch = TOKENS[:2]
    with torch.no_grad():
        alone = weights + _peak(lambda: language_loss(model, batch))
    checkpoints = blocks * batch.numel() * width * dtype.itemsize
    if kind == "norms":
        unfreeze = Unfreezing(model).unfreeze
        items = [Trainable(name, which, unfreeze(name)) for name, which, _ in norms_and_biases(model, ["norms"])]
    else:
        items = _adapt(model)
    plan = TrainingPlan(steps=4, batch_size=2, rates={kind: 1e-3})
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    trainer = Trainer(model, items, TOKENS, plan, autocast=autocast)
    with recomputing(model):
        trainer.advance()  # from here on the optimizer has its state
        step = _peak(trainer.advance)
    moments = 2 * _size([item.parameter for item in items])
    held = _size([*model.parameters(), *model.buffers()]) + moments + step
    ratio = held / (alone + checkpoints)
    print(f"{kind} {dtype}: {held / 2**20:.0f} MiB, {ratio:.3f} x the forward pass alone plus checkpoints")  # noqa: T201
    assert ratio <= limit
