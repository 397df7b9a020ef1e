"""Read the configuration classes of stock decoders: keys, kinds, defaults, aliases; no model is built."""

from __future__ import annotations

import inspect
import types
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

from espalier.families import Family
from espalier.families.shared.rotary import Rope
from espalier.families.stock_types import KINDS

COMMON: Final = {field.name for field in fields(PreTrainedConfig)} - Family.model_fields.keys()
LENGTHS: Final = ("max_seq_len", "seq_length", "n_ctx", "context_length")
"""What some call the longest sequence."""
NEVER: Final = Family.model_fields.keys() | {"attn_implementation", "output_attentions", "rope_parameters"}
NEEDED: Final = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


def decoders() -> list[str]:
    """List the model types that transformers maps to a causal language model, and that are nothing else besides."""
    return [name for name in sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) if KINDS.get(name) == "a decoder"]


def row_of(name: str) -> dict[str, Any]:
    """Say what the configuration class of a decoder has, and why it cannot be one of ours where it cannot."""
    config = CONFIG_MAPPING[name]
    own = {field.name: (_kinds(field.type), _plain(field.default)) for field in fields(config)}
    own = {key: value for key, value in own.items() if key not in COMMON | Family.model_fields.keys()} | {
        key: own[key] for key in (*NEEDED, "tie_word_embeddings") if key in own
    }
    aliases = {other: key for other, key in config.attribute_map.items() if key in own}
    length = next((key for key in LENGTHS if key in own), None)
    has_length = "max_position_embeddings" in own.keys() | aliases.keys()
    names = {"max_position_embeddings": length} if length and not has_length else {}
    row = {
        "architecture": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name],
        "fields": dict(sorted(own.items())),
        "aliases": aliases,
        "names": names,
        "rotates_in_part": "partial_rotary_factor" in _source(name),
    }
    try:
        default = config()
    except Exception:  # noqa: BLE001 - of a strict dataclass
        return row | {"refused": "its defaults are those of no model"}
    row["rope_keys"] = sorted(_rope_keys(getattr(default, "rope_parameters", None)))
    written = {key: value for key, value in default.to_dict().items() if key not in own.keys() | COMMON | NEVER}
    row["fields"] |= {key: (_kind_of(value), None) for key, value in written.items() if not key.startswith("_")}
    missing = [key for key in NEEDED if key not in own.keys() | aliases.keys() | names.keys()]
    if config.model_type != name:
        row["refused"] = f"stock transformers runs it as {config.model_type}: say that model_type"
    elif missing:
        row["refused"] = f"its configuration names no {missing[0]}"
    elif any("expert" in key for key in own):
        row["refused"] = "mixtures of experts need a declaration, and it has none yet"
    return row


def _rope_keys(rope: object) -> set[str]:
    """Settings of positions that a type has by default, and that no other has."""
    each = rope.values() if isinstance(rope, dict) and any(isinstance(item, dict) for item in rope.values()) else [rope]
    return {key for one in each if isinstance(one, dict) for key in one} - Rope.model_fields.keys()


def _kind_of(value: object) -> str:
    """Kinds of a key that the stock class writes of itself: what it computed from others."""
    kind = type(value).__name__
    return f"None|{kind}" if kind in ("int", "float", "bool", "str", "list", "dict") else "None"


def _source(name: str) -> str:
    """The text of the module that computes the model, which is not imported."""
    place = Path(inspect.getfile(CONFIG_MAPPING[name]))
    code = place.with_name(place.name.replace("configuration_", "modeling_"))
    return code.read_text() if code.is_file() else ""


def _kinds(annotation: Any) -> str:
    return "|".join(sorted(_each(annotation)))


def _each(annotation: Any) -> set[str]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return set().union(*map(_each, get_args(annotation)))
    if origin is Literal:
        return {type(value).__name__ for value in get_args(annotation)}
    if annotation in (None, type(None)):
        return {"None"}
    plain = origin or annotation
    if plain in (list, tuple):
        return {"list"}
    return {plain.__name__} if plain in (int, float, bool, str) else {"dict"}


def _plain(default: object) -> object:
    if default is None or default is MISSING or isinstance(default, bool | int | float | str):
        return None if default is MISSING else default
    return list(default) if isinstance(default, list | tuple) else None
