"""Model directories written byte by byte, so that they can be wrong in every way."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from espalier.probe.config import parse_config
from espalier.probe.headers import SIZES

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "vocab_size": 48,
    "hidden_size": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 16,
}

TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}
MIXTRAL_NAMES = {"mlp": "block_sparse_moe", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
"""Names in memory -> names in the published files."""

FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_text = st.text(st.characters(codec="ascii"), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON value, and NaN and infinity, which Python writes too."""

Tensors = dict[str, tuple[str, list[int]]]
"""Name -> dtype and shape."""


def tensors_of(config: dict[str, Any], dtype: str = "BF16") -> Tensors:
    """Exactly the tensors that a configuration asks for."""
    family = parse_config(config)
    shapes = dict(family.outer_shapes())
    for index in range(family.num_hidden_layers):
        shapes |= {f"{family.blocks}.{index}.{name}": shape for name, shape in family.block_shapes(index).items()}
    if not family.tie_word_embeddings:
        shapes |= family.head_shapes()
    if config["model_type"] == "mixtral":
        for new, old in MIXTRAL_NAMES.items():
            shapes = {name.replace(new, old): shape for name, shape in shapes.items()}
    return {name: (dtype, list(shape)) for name, shape in shapes.items()}


def header_of(tensors: Tensors) -> dict[str, Any]:
    """A correct header."""
    header: dict[str, Any] = {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return header


def safetensors(header: dict[str, Any] | bytes, data_bytes: int | None = None) -> bytes:
    """A file of a header, right or wrong, and zeros."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if data_bytes is None:
        assert isinstance(header, dict)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        data_bytes = max((entry["data_offsets"][1] for entry in entries), default=0)
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


def write_model(folder: Path, config: dict[str, Any] = LLAMA, tensors: Tensors | None = None) -> Path:
    """A whole directory, right unless told otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "model.safetensors").write_bytes(safetensors(header_of(tensors or tensors_of(config))))
    return folder
