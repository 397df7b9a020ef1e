"""Gemma 2: norms before and behind each half, alternating sliding and full attention, capped logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import NORM_BEHIND, Shapes
from espalier.families.shared.fields import Activation, Count, HeadSize, LayerTypes, Number, TokenId
from espalier.families.shared.llama_like import BiasedAttention
from espalier.families.shared.norms import rms_norm
from espalier.families.shared.sliding import fit_layers


class Gemma2(BiasedAttention):
    """Gemma 2: norms before and behind each half, two attention masks by turns, capped logits."""

    architecture: ClassVar[str] = "Gemma2ForCausalLM"
    heads_divide: ClassVar[bool] = True
    notes: ClassVar[str] = "norms before and behind each half; sliding and full attention by turns"
    whole: ClassVar[Mapping[str, str]] = {"replace": NORM_BEHIND}
    per_block: ClassVar[frozenset[str]] = frozenset({"layer_types"})

    model_type: Literal["gemma2"] = "gemma2"
    num_key_value_heads: Count = 4
    head_dim: HeadSize | None = 256
    hidden_activation: Activation = "gelu_pytorch_tanh"
    query_pre_attn_scalar: Count = 256
    sliding_window: Count | None = 4096
    layer_types: LayerTypes | None = None
    final_logit_softcapping: Number | None = 30.0
    attn_logit_softcapping: Number | None = 50.0
    tie_word_embeddings: bool = True
    use_bidirectional_attention: Literal[False] | None = None
    pad_token_id: TokenId | None = 0

    @model_validator(mode="after")
    def _window_and_layers_fit(self) -> Gemma2:
        if self.sliding_window is None:  # also where no block slides
            raise PydanticCustomError(
                "bad_config", "sliding_window is null, which stock transformers refuses: say 4096"
            )
        fit_layers(self.layer_types, self.num_hidden_layers, windowed=True)
        return self

    @model_validator(mode="after")
    def _one_activation(self) -> Gemma2:
        if self.hidden_act not in ("silu", "gelu", "gelu_pytorch_tanh", self.hidden_activation):
            raise PydanticCustomError("bad_config", "hidden_act is not read by a gemma2: say hidden_activation")
        return self

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        behind = rms_norm("pre_feedforward_layernorm", "post_feedforward_layernorm", width=self.hidden_size)
        return super().others(block) | behind
