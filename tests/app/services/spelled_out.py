"""Configurations of a few bytes that describe models without end."""

from __future__ import annotations

from typing import Any

from tests.espalier.probe.checkpoints import LLAMA, Tensors

EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "moe_intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 32,
    "num_experts_per_tok": 1,
}


def one_per_block(blocks: int, name: str = "self_attn.q_proj.weight") -> Tensors:
    """One tensor of one number in every block."""
    return {f"model.layers.{index}.{name}": ("BF16", [1, 1]) for index in range(blocks)}


def mixture(blocks: int, experts: int, **others: object) -> dict[str, Any]:
    """A configuration of a mixture of experts."""
    return EXPERTS | {"num_hidden_layers": blocks, "num_experts": experts} | others


SPELLED_OUT: dict[str, tuple[dict[str, Any], Tensors]] = {
    "half a million experts": (mixture(512, 1024), one_per_block(512)),
    "sixteen million experts": (mixture(4096, 4096), one_per_block(4096)),
    "as many as are read, of which one is there": (mixture(20, 1024), one_per_block(20)),
    "stacks that stand for all": (mixture(4096, 4096), one_per_block(4096, "mlp.experts.down_proj")),
    "dense blocks named one by one": (
        mixture(4096, 8, mlp_only_layers=list(range(1, 4096))),
        one_per_block(4096),
    ),
    "blocks without end": (LLAMA | {"num_hidden_layers": 4096}, one_per_block(4096)),
}
