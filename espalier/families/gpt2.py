"""GPT-2: learned positions, matrices stored as (inputs, outputs)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from espalier.families.shared.family import Shapes
from espalier.families.shared.fields import Activation, Count, Depth, Epsilon, Positions, Ratio
from espalier.families.shared.gpt_like import GptLike


class Gpt2(GptLike):
    """GPT-2: learned positions, matrices stored as (inputs, outputs)."""

    architecture: ClassVar[str] = "GPT2LMHeadModel"
    transposed: ClassVar[bool] = True
    other_keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
    notes: ClassVar[str] = "matrices are stored as (inputs, outputs); query, key and value are one matrix"
    names: ClassVar[tuple[str, str, str, str]] = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    embeddings: ClassVar[str] = "wte"
    width_field: ClassVar[str] = "n_inner"
    readers: ClassVar[Mapping[str, str]] = {"neurons": "mlp.c_proj"}
    pair_tokenizer: ClassVar[str] = "GPT2Tokenizer"

    model_type: Literal["gpt2"] = "gpt2"
    hidden_size: Count = Field(alias="n_embd")
    num_hidden_layers: Depth = Field(alias="n_layer")
    num_attention_heads: Count = Field(alias="n_head")
    max_position_embeddings: Positions = Field(1024, alias="n_positions")
    n_inner: Count | None = None
    tie_word_embeddings: bool = True
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: Epsilon = 1e-5
    resid_pdrop: Ratio = 0.1
    embd_pdrop: Ratio = 0.1
    attn_pdrop: Ratio = 0.1
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: Literal[False] = False

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms of a block."""
        return ("ln_1", "ln_2")

    def why_not(self, part: str) -> str | None:
        """Return why no stock configuration of the family can have fewer units of a part; None when one can."""
        if part == "depth" and (self.scale_attn_by_inverse_layer_idx or self.reorder_and_upcast_attn):
            return "what a block computes depends on how deep it stands"
        return super().why_not(part)

    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out."""
        positions = {"transformer.wpe.weight": (self.max_position_embeddings, self.hidden_size)}
        return super().outer_shapes() | positions
