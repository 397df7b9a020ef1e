"""Configurations of tiny models of stock decoders."""

from __future__ import annotations

from typing import Any, Final

from transformers import CONFIG_MAPPING

from tests.espalier.probe.generated import tiny

VOCABULARY: Final = 384
SIZES: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "n_embd": 32,
    "n_positions": 128,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 128,
    "num_layers": 2,
    "ffn_dim": 64,
    "attention_heads": 4,
    "sliding_window": 16,
    "n_inner": 64,
    "rotary_dim": 4,
    "query_pre_attn_scalar": 8,
    "num_hidden_layers": 2,
    "n_layer": 2,
}
_LATENT: Final = {
    **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
}
OWN: Final[dict[str, dict[str, Any]]] = {
    "ctrl": {"dff": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    **dict.fromkeys(("youtu", "minicpm3"), _LATENT),
    "mpt": {"attn_config": {"attn_impl": "torch"}},
}
"""What a type needs besides."""


def tiny_config(name: str) -> dict[str, Any]:
    """A small right configuration of a stock decoder, of the vocabulary that the tests' tokenizer has."""
    known = set(CONFIG_MAPPING[name].__dataclass_fields__)
    sized = {key: value for key, value in SIZES.items() if key in known}
    return {**tiny(name), **sized, **OWN.get(name, {})}
