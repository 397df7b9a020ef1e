"""GPT-like families: layer norms with biases, heads that divide the hidden size, ungated MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.family import ONE_MATRIX, Family, Map, Maps, Shapes
from espalier.families.shared.norms import layer_norm


class EvenHeads(Family):
    """Families whose heads divide the hidden size."""

    @model_validator(mode="after")
    def _heads_fit(self) -> EvenHeads:
        if self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self


class GptLike(EvenHeads):
    """Families with one matrix for queries, keys and values; four in a block."""

    blocks: ClassVar[str] = "transformer.h"
    base: ClassVar[str] = "transformer."
    whole: ClassVar[Mapping[str, str]] = {"kv_groups": ONE_MATRIX}
    names: ClassVar[tuple[str, str, str, str]] = (
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    """The matrices: queries, keys and values; what attention gives; up; down."""
    embeddings: ClassVar[str] = "word_embeddings"
    outer_norms: ClassVar[tuple[str, ...]] = ("ln_f",)

    @property
    def keys_width(self) -> int:
        """Outputs of all keys together, and of all values."""
        return self.hidden_size

    @property
    def biases(self) -> tuple[bool, bool]:
        """Whether the attention's matrices have biases, and whether the feed-forward net's have."""
        return (True, True)

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms of a block."""
        return ("input_layernorm", "post_attention_layernorm")

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""
        del block
        hidden, wide, (attention, net) = self.hidden_size, self.count("neurons"), self.biases
        queries_keys_values, out, up, down = self.names
        return {
            queries_keys_values: Map(hidden + 2 * self.keys_width, hidden, attention),
            out: Map(hidden, hidden, attention),
            up: Map(wide, hidden, net),
            down: Map(hidden, wide, net),
        }

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        del block
        return layer_norm(*self.norms, width=self.hidden_size)

    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out."""
        table = {f"{self.base}{self.embeddings}.weight": (self.vocab_size, self.hidden_size)}
        return table | layer_norm(*(f"{self.base}{name}" for name in self.outer_norms), width=self.hidden_size)
