"""OPT: learned positions, layer norms, biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from espalier.families.shared.family import NORM_BEHIND, Map, Maps, Shapes
from espalier.families.shared.fields import Activation, Count, Ratio, TokenId
from espalier.families.shared.gpt_like import EvenHeads
from espalier.families.shared.norms import layer_norm


class Opt(EvenHeads):
    """OPT: learned positions, layer norms, biases."""

    architecture: ClassVar[str] = "OPTForCausalLM"
    blocks: ClassVar[str] = "model.decoder.layers"
    notes: ClassVar[str] = "opt-350m has its norms behind the additions: windows `block` and `matrix` only"
    width_field: ClassVar[str] = "ffn_dim"
    readers: ClassVar[Mapping[str, str]] = {"neurons": "fc2"}
    positions_in_floats: ClassVar[str] = "model.decoder"
    pair_tokenizer: ClassVar[str] = "GPT2Tokenizer"
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": "its configuration ties the heads to the hidden size"}

    model_type: Literal["opt"] = "opt"
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
        """Tell whether attention and MLP each add to the residual stream."""
        return self.do_layer_norm_before

    def why_not(self, part: str) -> str | None:
        """Return why no stock configuration of the family can have fewer units of a part; None when one can."""
        if part == "replace" and not self.do_layer_norm_before:
            return NORM_BEHIND
        return super().why_not(part)

    def head_shapes(self) -> Shapes:
        """Return the parameters of the head."""
        return {"lm_head.weight": (self.vocab_size, self.embedding)}

    def _norms(self, *names: str) -> Shapes:
        return layer_norm(*names, width=self.hidden_size) if self.layer_norm_elementwise_affine else {}

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        del block
        hidden, biased = self.hidden_size, self.enable_bias
        maps = {f"self_attn.{name}_proj": Map(hidden, hidden, biased) for name in ("k", "v", "q", "out")}
        return maps | {"fc1": Map(self.ffn_dim, hidden, biased), "fc2": Map(hidden, self.ffn_dim, biased)}

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        del block
        return self._norms("self_attn_layer_norm", "final_layer_norm")

    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out."""
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
