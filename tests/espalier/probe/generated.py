"""Configurations of every family with fields missing, null, of the wrong type, out of bounds or at odds, by number."""

from __future__ import annotations

import random
from dataclasses import fields
from typing import Any

from transformers import CONFIG_MAPPING

SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "max_position_embeddings": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "head_dim": 4,
    "ffn_dim": 24,
    "word_embed_proj_dim": 16,
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "original_max_position_embeddings": 16,
    "ffn_hidden_size": 24,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_kv_heads": 4,
    "query_pre_attn_scalar": 4,
}
"""Of a tiny model, under the names of all families."""
OLDER = (
    "rope_scaling",
    "rope_theta",
    "rope_parameters",
    "torch_dtype",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_emb_base",
    "n_embed",
    "seq_length",
    "num_experts",
    "num_local_experts",
    "head_dim",
    "layer_types",
    "quantization_config",
    "hidden_act",
    "sliding_window",
    "per_layer_config",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""Keys that no field of a stock class has under this name, or that belong to another class."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    12,
    16,
    24,
    47,
    48,
    49,
    -1,
    -2,
    -48,
    -49,
    2**20,
    2**31,
    2**63,
    0.0,
    0.5,
    1.0,
    1.5,
    -1.0,
    1e-9,
    1e30,
    "",
    "1",
    "silu",
    "gelu",
    "none",
    "auto",
    "float32",
    "bfloat16",
    "int8",
    "torch.float16",
    "nn",
    [],
    {},
    [1],
    [1, 2],
    [1, 2, 3],
    [None],
    ["full_attention"],
    ["full_attention", "sliding_attention"],
    ["sliding_attention"] * 2,
    ["linear_attention"] * 2,
    {"a": 1},
    [[1]],
    ["LlamaForCausalLM"],
)
ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su", "mrope", None)
ROPE_KEYS = (
    "rope_type",
    "type",
    "factor",
    "original_max_position_embeddings",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    "rope_theta",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "partial_rotary_factor",
    "full_attention",
    "unknown",
)


def tiny(kind: str) -> dict[str, Any]:
    """A small right configuration of a family."""
    known = {field.name for field in fields(CONFIG_MAPPING[kind])}
    return {"model_type": kind} | {name: value for name, value in SIZES.items() if name in known}


def configuration(kind: str, number: int) -> dict[str, Any]:
    """One configuration with one to three mistakes, perhaps harmless ones."""
    rng = random.Random(f"{kind} {number}")
    config = tiny(kind)
    known = {field.name for field in fields(CONFIG_MAPPING[kind])}
    names = sorted((known | set(CONFIG_MAPPING[kind].attribute_map) | set(OLDER)) - {"transformers_version"})
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.25:
            config[rng.choice(("rope_scaling", "rope_parameters"))] = _rope(rng)
            continue
        name = rng.choice(names if rng.random() < 0.6 else sorted(config))
        if name == "model_type" or rng.random() < 0.1:
            config = {key: value for key, value in config.items() if key != name or name == "model_type"}
        else:
            config[name] = _value(rng, config.get(name))
    return config


def _value(rng: random.Random, old: object) -> object:
    if isinstance(old, int) and rng.random() < 0.4:
        return rng.choice((old + 1, old - 1, old * 2, old * 3, -old, float(old), str(old), [old]))
    return rng.choice(VALUES)


def _rope(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(ROPES)
    rope: dict[str, Any] = {"factor": 2.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}
    rope[rng.choice(("rope_type", "type"))] = kind
    if kind in ("longrope", "su"):
        rope |= {"short_factor": [1.0] * 2, "long_factor": [2.0] * 2}
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for _ in range(rng.choice((0, 1, 1, 2))):
        key = rng.choice(ROPE_KEYS)
        if rng.random() < 0.4:
            rope.pop(key, None)
        else:
            rope[key] = rng.choice((*VALUES, [1.0] * 2, [0.0] * 2, 0.25, {"rope_type": "default"}))
    return {"full_attention": rope, "sliding_attention": dict(rope)} if rng.random() < 0.08 else rope
