"""Halves of blocks, found by running the blocks of real families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from espalier.errors import UnsupportedArchitectureError
from espalier.model.fused_experts import split_experts
from espalier.model.halves import Halves, Run, find_halves
from espalier.model.layout import find_stack
from espalier.model.streamed import unwrap

_WIDE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_OPT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 64,
}
_NEOX: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
_FALCON: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
FAMILIES: list[tuple[Callable[[], PreTrainedConfig], bool]] = [
    (lambda: LlamaConfig(**_WIDE), False),  # self_attn and mlp, RMSNorm
    (lambda: Qwen3Config(**_WIDE), False),  # norms of queries and keys inside the attention
    (lambda: Gemma2Config(**_WIDE), False),  # a norm behind each half as well
    (lambda: OPTConfig(**_OPT), False),  # fc1 and fc2 stand directly in the block
    (lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4), False),  # Conv1D
    (lambda: GPTNeoXConfig(**_NEOX, use_parallel_residual=True), True),  # both halves read the block's input
    (lambda: GPTNeoXConfig(**_NEOX, use_parallel_residual=False), False),
    (lambda: BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4), False),  # children add the residual
    (lambda: FalconConfig(**_FALCON), True),  # one norm feeds both halves
    (lambda: FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2), True),  # a norm for each
    (lambda: FalconConfig(**_FALCON, parallel_attn=False, multi_query=False, alibi=True, bias=True), False),
    (lambda: Phi3Config(**_WIDE, pad_token_id=0), False),  # fused query, key and value; fused gate and up
    (lambda: Olmo2Config(**_WIDE), False),  # norms only behind the halves
    (lambda: MixtralConfig(**_WIDE, num_local_experts=4), False),
    (lambda: Qwen3MoeConfig(**_WIDE, moe_intermediate_size=16, num_experts=64, num_experts_per_tok=2), False),
]
IDS = [
    *("llama", "qwen3", "gemma2", "opt", "gpt2", "neox-parallel", "neox-sequential", "bloom", "falcon-7b"),
    *("falcon-40b", "falcon-rw", "phi3", "olmo2", "mixtral", "qwen3-moe"),
]


def _block(config: PreTrainedConfig) -> tuple[nn.Module, Run, torch.Tensor]:
    """The first block of a random model, its call as the model makes it, and what enters it."""
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    split_experts(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # zeros and ones of the initialisation would hide mistakes
            nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.2)
        parameter.requires_grad_(False)
    block = find_stack(model)[1][0]
    seen: dict[str, Any] = {}

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(args=args[1:], kwargs=kwargs, hidden=args[0] if args else kwargs.pop("hidden_states"))

    handle = block.register_forward_pre_hook(look, with_kwargs=True)
    model(input_ids=torch.arange(24).view(2, 12), use_cache=False)
    handle.remove()
    return block, lambda hidden: unwrap(block(hidden, *seen["args"], **seen["kwargs"])), seen["hidden"]


def _compose(halves: Halves, block: nn.Module, run: Run, hidden: torch.Tensor) -> torch.Tensor:
    with halves.only(block, "attention"):
        mid = run(hidden)
    with halves.only(block, "mlp"):
        return mid + run(hidden) - hidden if halves.parallel else run(mid)


@pytest.mark.parametrize(("config", "parallel"), FAMILIES, ids=IDS)
def test_the_halves_add_up_to_the_block(config: Callable[[], PreTrainedConfig], parallel: bool) -> None:
    block, run, hidden = _block(config())
    whole = run(hidden)
    halves = find_halves(block, run, hidden)
    assert halves.parallel is parallel
    torch.testing.assert_close(_compose(halves, block, run, hidden), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(hidden), whole, rtol=0, atol=0)  # nothing stays muted


@pytest.mark.parametrize(("config", "parallel"), FAMILIES, ids=IDS)
def test_every_parameter_belongs_to_exactly_one_half(config: Callable[[], PreTrainedConfig], parallel: bool) -> None:
    del parallel
    block, run, hidden = _block(config())
    owned = find_halves(block, run, hidden).owned
    assert not owned["attention"] & owned["mlp"]
    assert owned["attention"] | owned["mlp"] == {name for name, _ in block.named_parameters()}
    assert not any(parameter.requires_grad for parameter in block.parameters())


def test_norms_go_with_the_half_that_they_feed() -> None:
    block, run, hidden = _block(OPTConfig(**_OPT))
    owned = find_halves(block, run, hidden).owned
    assert {name for name in owned["mlp"] if "." in name} == {
        f"{module}.{leaf}" for module in ("final_layer_norm", "fc1", "fc2") for leaf in ("weight", "bias")
    }
    block, run, hidden = _block(Gemma2Config(**_WIDE))
    owned = find_halves(block, run, hidden).owned
    assert "post_attention_layernorm.weight" in owned["attention"]
    assert {"pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"} <= owned["mlp"]


def test_a_block_whose_halves_do_not_add_up_is_refused_with_a_way_out() -> None:
    block, run, hidden = _block(OPTConfig(**_OPT, do_layer_norm_before=False))
    with pytest.raises(UnsupportedArchitectureError, match="do not add up") as caught:
        find_halves(block, run, hidden)
    assert "block" in caught.value.hint
