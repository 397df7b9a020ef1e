"""GPT-NeoX and Pythia: parallel residual halves by default, partial rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.fields import Activation, Count, Epsilon, Ratio
from espalier.families.shared.gpt_like import GptLike
from espalier.families.shared.rotary import Part, Rotary, Theta


class GptNeoX(GptLike, Rotary):
    """GPT-NeoX and Pythia: both halves read the block's input, unless told otherwise."""

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    blocks: ClassVar[str] = "gpt_neox.layers"
    base: ClassVar[str] = "gpt_neox."
    other_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"^embed_out\.", "lm_head."),)
    notes: ClassVar[str] = "attention and feed-forward net side by side; query, key and value are one matrix"
    names: ClassVar[tuple[str, str, str, str]] = (
        "attention.query_key_value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    embeddings: ClassVar[str] = "embed_in"
    outer_norms: ClassVar[tuple[str, ...]] = ("final_layer_norm",)
    width_field: ClassVar[str] = "intermediate_size"
    readers: ClassVar[Mapping[str, str]] = {"neurons": "mlp.dense_4h_to_h"}
    pair_tokenizer: ClassVar[str] = "GPTNeoXTokenizer"

    model_type: Literal["gpt_neox"] = "gpt_neox"
    intermediate_size: Count
    hidden_act: Activation = "gelu"
    hidden_dropout: Ratio = 0.0
    classifier_dropout: Ratio = 0.1
    layer_norm_eps: Epsilon = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    is_decoder: bool = False
    rotary_pct: Part = 0.25
    rotary_emb_base: Theta = 10_000.0

    @property
    def rotary_fraction(self) -> float:
        """The fraction of a head that is rotated."""
        declared = "partial_rotary_factor" in self.rope.model_fields_set
        return self.rope.partial_rotary_factor if declared else self.rotary_pct

    @model_validator(mode="after")
    def _one_base(self) -> GptNeoX:
        if "rope_theta" in self.model_fields_set and self.rope_theta != self.rotary_emb_base:
            raise PydanticCustomError("bad_config", "rope_theta is not read by a gpt_neox: say rotary_emb_base")
        return self

    @property
    def biases(self) -> tuple[bool, bool]:
        """Whether the attention's matrices have biases, and whether the feed-forward net's have."""
        return (self.attention_bias, True)
