"""Shapes of known models, and random models of a few of their blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.fixtures.library.tiny_models import VOCABULARY, write_tokenizer

SPREAD: Final = 0.02
"""Of random weights, as transformers begins with."""


@dataclass(frozen=True)
class Shape:
    """One kind of model."""

    name: str
    family: str
    width: int
    """Of a hidden state."""
    inner: int
    """Neurons of the MLP, or of one expert."""
    heads: int
    groups: int
    """Heads of keys and values."""
    head: int
    """Width of a head."""
    blocks: int
    """Of the model itself."""
    built: int
    """Blocks of the random one."""
    windows: int
    """Of calibration."""
    length: int
    """Tokens of a window."""
    experts: int = 0
    chosen: int = 1
    """Experts for each token."""
    vocabulary: int = VOCABULARY
    tied: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of calibration."""
        return self.windows * self.length

    @property
    def attention(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the linear maps of attention."""
        queries, keys = self.heads * self.head, self.groups * self.head
        return [(queries, self.width), (keys, self.width), (keys, self.width), (self.width, queries)]

    @property
    def mlp(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the linear maps of the MLP, or of one expert."""
        return [(self.inner, self.width), (self.inner, self.width), (self.width, self.inner)]

    def config(self) -> dict[str, Any]:
        """Return what its configuration says."""
        common = {
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.built,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "head_dim": self.head,
            "max_position_embeddings": max(self.length, 128),
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
        }
        if not self.experts:
            return common
        routing = {"num_experts": self.experts, "num_experts_per_tok": self.chosen, "norm_topk_prob": True}
        return common | routing | {"moe_intermediate_size": self.inner}


ONE: Final = Shape(
    "1B (Llama-3.2-1B, 8 of 16 blocks)",
    "llama",
    width=2048,
    inner=8192,
    heads=32,
    groups=8,
    head=64,
    blocks=16,
    built=8,
    windows=32,
    length=2048,
    vocabulary=128_256,
    tied=True,
)
EIGHT: Final = Shape(
    "8B (Llama-3.1-8B, 3 of 32 blocks)",
    "llama",
    width=4096,
    inner=14_336,
    heads=32,
    groups=8,
    head=128,
    blocks=32,
    built=3,
    windows=128,
    length=2048,
)
THIRTY: Final = Shape(
    "30B-A3B (Qwen3, 3 of 48 blocks)",
    "qwen3_moe",
    width=2048,
    inner=768,
    heads=32,
    groups=4,
    head=128,
    blocks=48,
    built=3,
    windows=128,
    length=2048,
    experts=128,
    chosen=8,
)
NARROW: Final = Shape(
    "narrow and deep (24 blocks)",
    "llama",
    width=1024,
    inner=4096,
    heads=16,
    groups=16,
    head=64,
    blocks=24,
    built=24,
    windows=4,
    length=256,
)
"""A model of many blocks beside which the work on one of them takes little memory."""


def tiny(shape: Shape) -> Shape:
    """Return a shape for a machine that only pretends: the same parts, small ones, and its own name."""
    small = replace(shape, width=32, inner=64, heads=4, groups=2, head=8, built=3, windows=8, length=32)
    small = replace(small, vocabulary=VOCABULARY)
    if shape == NARROW:
        return replace(small, width=192, inner=192, heads=4, groups=4, head=48, built=26, windows=2, length=16)
    return replace(small, inner=16, experts=8, chosen=2) if shape.experts else small


def write_model(folder: Path, shape: Shape, device: torch.device) -> Path:
    """Write a random bfloat16 model of a shape, whose numbers the device draws where it can, and its tokenizer."""
    on = device if device.type == "cuda" else torch.device("cpu")
    draws = torch.Generator(on).manual_seed(0)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(shape.family, **shape.config()), dtype=torch.bfloat16
        )
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=draws, device=on, dtype=torch.bfloat16) * SPREAD
            parameter.copy_(drawn if parameter.ndim > 1 else drawn + 1)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
