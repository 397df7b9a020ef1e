"""OPT, GPT-2 and GPT-NeoX: layer norms with biases, plain feed-forward nets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.base import (
    NORM_BEHIND,
    Activation,
    Count,
    Epsilon,
    EvenHeads,
    Map,
    Maps,
    Positions,
    Ratio,
    Shapes,
    TokenId,
    layer_norm,
)
from espalier.families.rope import Part, Rotary, Theta


class Opt(EvenHeads):
    """OPT: learned positions, layer norms, biases."""

    architecture: ClassVar[str] = "OPTForCausalLM"
    blocks: ClassVar[str] = "model.decoder.layers"
    notes: ClassVar[str] = "opt-350m has its norms behind the additions: windows `block` and `matrix` only"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "its configuration ties the heads to the hidden size"}

    model_type: Literal["opt"]
    ffn_dim: Count
    word_embed_proj_dim: Count | None = None
    tie_word_embeddings: bool = True
    activation_function: Activation = "relu"
    do_layer_norm_before: bool = True
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    dropout: Ratio = 0.1
    layerdrop: Ratio = 0.0
    init_std: Ratio = 0.02
    pad_token_id: TokenId | None = 1
    remove_final_layer_norm: bool = Field(False, alias="_remove_final_layer_norm")

    @property
    def embedding(self) -> int:
        """Width of the embeddings, which small OPT models project to the hidden size."""
        return self.word_embed_proj_dim or self.hidden_size

    def splits_in_halves(self) -> bool:
        """Tell whether attention and feed-forward net each add to the same stream of hidden states."""
        return self.do_layer_norm_before

    def why_not(self, part: str) -> str | None:
        """Why no stock configuration of the family can have fewer units of a part; None when one can."""
        if part == "replace" and not self.do_layer_norm_before:
            return NORM_BEHIND
        return super().why_not(part)

    def head_shapes(self) -> Shapes:
        """Parameters of the head."""
        return {"lm_head.weight": (self.vocab_size, self.embedding)}

    def _norms(self, *names: str) -> Shapes:
        return layer_norm(*names, width=self.hidden_size) if self.layer_norm_elementwise_affine else {}

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden, biased = self.hidden_size, self.enable_bias
        maps = {f"self_attn.{name}_proj": Map(hidden, hidden, biased) for name in ("k", "v", "q", "out")}
        return maps | {"fc1": Map(self.ffn_dim, hidden, biased), "fc2": Map(hidden, self.ffn_dim, biased)}

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        return self._norms("self_attn_layer_norm", "final_layer_norm")

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        hidden, narrow = self.hidden_size, self.embedding
        shapes: Shapes = {
            "model.decoder.embed_tokens.weight": (self.vocab_size, narrow),
            # The first two rows are an offset of the original implementation.
            "model.decoder.embed_positions.weight": (self.max_position_embeddings + 2, hidden),
        }
        if narrow != hidden:
            shapes["model.decoder.project_in.weight"] = (hidden, narrow)
            shapes["model.decoder.project_out.weight"] = (narrow, hidden)
        if self.do_layer_norm_before and not self.remove_final_layer_norm:
            shapes |= self._norms("model.decoder.final_layer_norm")
        return shapes


class Gpt2(EvenHeads):
    """GPT-2: learned positions, matrices stored as (inputs, outputs)."""

    architecture: ClassVar[str] = "GPT2LMHeadModel"
    blocks: ClassVar[str] = "transformer.h"
    base: ClassVar[str] = "transformer."
    transposed: ClassVar[bool] = True
    other_keys: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }  # fmt: skip
    notes: ClassVar[str] = "matrices are stored as (inputs, outputs); query, key and value are one matrix"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "queries, keys and values are one matrix"}

    model_type: Literal["gpt2"]
    hidden_size: Count = Field(alias="n_embd")
    num_hidden_layers: int = Field(alias="n_layer", ge=1, le=4096)
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

    def why_not(self, part: str) -> str | None:
        """Why no stock configuration of the family can have fewer units of a part; None when one can."""
        if part == "depth" and (self.scale_attn_by_inverse_layer_idx or self.reorder_and_upcast_attn):
            return "what a block computes depends on how deep it stands"
        return super().why_not(part)

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden, wide = self.hidden_size, self.n_inner or 4 * self.hidden_size
        return {
            "attn.c_attn": Map(3 * hidden, hidden, True),
            "attn.c_proj": Map(hidden, hidden, True),
            "mlp.c_fc": Map(wide, hidden, True),
            "mlp.c_proj": Map(hidden, wide, True),
        }

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        return layer_norm("ln_1", "ln_2", width=self.hidden_size)

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        tables = {
            "transformer.wte.weight": (self.vocab_size, self.hidden_size),
            "transformer.wpe.weight": (self.max_position_embeddings, self.hidden_size),
        }
        return tables | layer_norm("transformer.ln_f", width=self.hidden_size)


class GptNeoX(EvenHeads, Rotary):
    """GPT-NeoX and Pythia: both halves read the block's input, unless told otherwise."""

    architecture: ClassVar[str] = "GPTNeoXForCausalLM"
    blocks: ClassVar[str] = "gpt_neox.layers"
    base: ClassVar[str] = "gpt_neox."
    other_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"^embed_out\.", "lm_head."),)
    notes: ClassVar[str] = "attention and feed-forward net side by side; query, key and value are one matrix"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "queries, keys and values are one matrix"}

    model_type: Literal["gpt_neox"]
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
    def turned(self) -> float:
        """The share of a head that is turned."""
        told = "partial_rotary_factor" in self.rope.model_fields_set
        return self.rope.partial_rotary_factor if told else self.rotary_pct

    @model_validator(mode="after")
    def _one_base(self) -> GptNeoX:
        if "rope_theta" in self.model_fields_set and self.rope_theta != self.rotary_emb_base:
            raise PydanticCustomError("bad_config", "rope_theta is not read by a gpt_neox: say rotary_emb_base")
        return self

    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""
        del block
        hidden, wide = self.hidden_size, self.intermediate_size
        return {
            "attention.query_key_value": Map(3 * hidden, hidden, self.attention_bias),
            "attention.dense": Map(hidden, hidden, self.attention_bias),
            "mlp.dense_h_to_4h": Map(wide, hidden, True),
            "mlp.dense_4h_to_h": Map(hidden, wide, True),
        }

    def others(self, block: int) -> Shapes:
        """Every other parameter of a block."""
        del block
        return layer_norm("input_layernorm", "post_attention_layernorm", width=self.hidden_size)

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        table = {"gpt_neox.embed_in.weight": (self.vocab_size, self.hidden_size)}
        return table | layer_norm("gpt_neox.final_layer_norm", width=self.hidden_size)
