"""BLOOM: positions by a slope on the attention (ALiBi), a norm behind the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import ONE_MATRIX
from espalier.families.shared.fields import Count, Depth, Epsilon, Positions, Ratio
from espalier.families.shared.gpt_like import GptLike


class Bloom(GptLike):
    """BLOOM: positions by a slope on the attention (ALiBi), a norm behind the embeddings."""

    architecture: ClassVar[str] = "BloomForCausalLM"
    other_keys: ClassVar[Mapping[str, str]] = {
        "n_embed": "hidden_size",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "seq_length",
    }
    notes: ClassVar[str] = "query, key and value are one matrix; each half adds the residual itself"
    whole: ClassVar[Mapping[str, str]] = {
        "neurons": "its configuration says four times the hidden size and nothing else",
        "kv_groups": ONE_MATRIX,
    }
    outer_norms: ClassVar[tuple[str, ...]] = ("word_embeddings_layernorm", "ln_f")

    model_type: Literal["bloom"] = "bloom"
    num_hidden_layers: Depth = Field(alias="n_layer")
    num_attention_heads: Count = Field(alias="n_head")
    max_position_embeddings: Positions = Field(2048, alias="seq_length")
    tie_word_embeddings: bool = True
    layer_norm_epsilon: Epsilon = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: Ratio = 0.0
    pretraining_tp: Count = 1
    slow_but_exact: bool = False

    @model_validator(mode="after")
    def _maps_are_called(self) -> Bloom:
        if self.slow_but_exact and self.pretraining_tp > 1:  # their weights are read slice by slice instead
            raise PydanticCustomError(
                "bad_config",
                "slow_but_exact, with pretraining_tp beyond 1, passes by the maps that are pruned: set it to false",
            )
        return self

    def splits_in_halves(self) -> bool:
        """Tell whether attention and MLP each add to the residual stream."""
        return not self.apply_residual_connection_post_layernorm
