"""The configurations that we know, and the tensors that a model of each must have."""

from __future__ import annotations

from espalier.families.base import Family, Map, Maps, Shapes
from espalier.families.falcon import Bloom, Falcon
from espalier.families.gpt import Gpt2, GptNeoX, Opt
from espalier.families.llama import Gemma2, Llama, Mistral, Olmo2, Phi3
from espalier.families.mixtures import Mixtral, Qwen3Moe
from espalier.families.qwen import Qwen2, Qwen3

FAMILIES: dict[str, type[Family]] = {
    "llama": Llama, "mistral": Mistral, "qwen2": Qwen2, "qwen3": Qwen3, "gemma2": Gemma2, "phi3": Phi3,
    "olmo2": Olmo2, "mixtral": Mixtral, "qwen3_moe": Qwen3Moe,
    "opt": Opt, "gpt2": Gpt2, "gpt_neox": GptNeoX, "bloom": Bloom, "falcon": Falcon,
}  # fmt: skip
"""The model types that are accepted."""

__all__ = ["FAMILIES", "Family", "Map", "Maps", "Shapes"]
