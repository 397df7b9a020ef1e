"""Base class of a family's declaration: configuration fields, tensor shapes, and which units can be removed."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.families.shared.fields import Count, Depth, Dtype, Positions, Ratio, TokenId, Word
from espalier.methods.structured import PartKind

NORM_BEHIND = "a norm stands between its last matrix and the hidden states"
ONE_MATRIX = "queries, keys and values are one matrix"
Shapes = dict[str, tuple[int, ...]]


class Map(NamedTuple):
    """A linear layer inside a block, with the module's own shape."""

    outputs: int
    inputs: int
    biased: bool = False


Maps = dict[str, Map]
"""Linear layers by module name within the block."""


class Family(BaseModel, ABC):
    """What every supported configuration has. What is dropped, transformers never sees.

    A class in `espalier.families` sets `model_type: Literal["name"] = "name"`; only a declaration does.
    """

    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, validate_by_name=False, validate_by_alias=True
    )

    architecture: ClassVar[str]
    """The stock class."""
    blocks: ClassVar[str] = "model.layers"
    """Parameter name of the list of blocks."""
    base: ClassVar[str] = "model."
    """Prefix of all parameters but the head's; some published files leave it out."""
    transposed: ClassVar[bool] = False
    """True where matrices are stored as (inputs, outputs)."""
    other_keys: ClassVar[Mapping[str, str]] = {}
    """Other names of configuration keys -> the name used here."""
    other_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Regular expressions of published tensor names, and what turns them into parameter names."""
    notes: ClassVar[str] = ""
    """What sets the family apart, for people."""
    whole: ClassVar[Mapping[str, str]] = {}
    """Parts that stay whole (`neurons`, `kv_groups`), and `replace` -> why."""
    width_field: ClassVar[str | None] = None
    """The field that says how many neurons a feed-forward net has."""
    readers: ClassVar[Mapping[str, str]] = {}
    """Part that can go (`neurons`, `kv_groups`) -> the one map of a block that reads its units."""
    bias_fields: ClassVar[Mapping[str, str]] = {}
    """Part -> the field that gives all linear layers of its units a bias, the reader included."""
    per_block: ClassVar[frozenset[str]] = frozenset()
    """Fields that are lists with one item per block."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Switches of what only training reads, and what needs the stock blocks; off while a model is compressed."""
    positions_in_floats: ClassVar[str | None] = None
    """The module that counts positions in floating point unless it is given them, by name."""
    pair_tokenizer: ClassVar[str | None] = None
    """The family's stock tokenizer, where that reads vocab.json and merges.txt."""
    tokenizer_is_fixed: ClassVar[bool] = False
    """Whether stock transformers goes by the model type alone, whatever tokenizer_config.json names."""

    model_type: str
    architectures: list[Word] | None = Field(None, max_length=8)
    vocab_size: Annotated[int, Field(ge=2, le=2**24)]
    hidden_size: Count
    num_hidden_layers: Depth
    num_attention_heads: Count
    max_position_embeddings: Positions
    tie_word_embeddings: bool = False
    dtype: Dtype | None = None
    torch_dtype: Dtype | None = None
    transformers_version: Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")] | None = None
    use_cache: bool = True
    attention_dropout: Ratio = 0.0
    initializer_range: Ratio = 0.02
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | Annotated[list[TokenId], Field(max_length=64)] | None = None
    pad_token_id: TokenId | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:  # noqa: ANN401 - none is given
        """Refuse a malformed declaration when it is imported; what families share declares no `model_type`."""
        if isinstance(cls.model_fields["model_type"].default, str):
            for why in _faults(cls):
                raise TypeError(f"{cls.__module__}.{cls.__name__} {why}")

    @model_validator(mode="before")
    @classmethod
    def _one_name_per_value(cls, config: Any) -> Any:  # noqa: ANN401 - a stranger's JSON
        if not isinstance(config, dict):
            return config
        config = dict(config)
        for other, name in cls.other_keys.items():
            value = config.pop(other, None)
            if value is not None and config.setdefault(name, value) != value:
                raise PydanticCustomError("bad_config", f"{other} and {name} disagree")
        return config

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> Family:
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise PydanticCustomError("bad_config", "pad_token_id is outside the vocabulary")
        return self

    @classmethod
    def keys(cls) -> frozenset[str]:
        """Return every key of config.json that is read, under all its names."""
        return frozenset({field.alias or name for name, field in cls.model_fields.items()} | cls.other_keys.keys())

    @classmethod
    def named_fields(cls) -> frozenset[str]:
        """Return every field that the declaration refers to by name."""
        width = frozenset({cls.width_field} if cls.width_field else ())
        return width.union(cls.bias_fields.values(), cls.per_block, cls.training_only)

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def routed_fraction(self) -> float:
        """The fraction of the experts that a token is routed to."""
        return 1.0

    def count(self, part: PartKind) -> int:
        """Return how many units of a part every block has; for `depth`, how many blocks the model has."""
        match part:
            case "depth":
                return self.num_hidden_layers
            case "neurons":
                own = self.width_field and getattr(self, self.width_field)
                return own or 4 * self.hidden_size  # what stock classes make of a width that is left out
            case "kv_groups":
                return self.kv_heads
            case "experts":
                return 0

    def min_count(self, part: PartKind) -> int:
        """Return the fewest units of a part that a model can have."""
        del part
        return 1

    def fits(self, part: PartKind) -> tuple[int, ...] | None:
        """Return the numbers of units that a stock configuration can have, ascending; None where it can have any."""
        del part
        return None

    def carries_bias(self, part: PartKind) -> bool:
        """Tell whether a bias can hold the mean output of removed units."""
        return self.maps(0)[self.readers[part]].biased or part in self.bias_fields

    def narrowed(self, part: PartKind, count: int) -> dict[str, Any]:
        """Return the settings, by field, of the same model with `count` units of a part in every block."""
        assert part == "neurons"
        assert self.width_field is not None
        return {self.width_field: count}

    def shortened(self, kept: Sequence[int]) -> dict[str, Any]:
        """Return the settings, by field, of the same model with these of its blocks; the lists of `per_block` aside."""
        return {"num_hidden_layers": len(kept)}

    def why_not(self, part: str) -> str | None:
        """Return why no stock configuration of the family can have fewer units of a part; None when one can.

        Of `replace`: why no matrix can stand in for a block.
        """
        return self.whole.get(part)

    def splits_in_halves(self) -> bool:
        """Tell whether attention and MLP each add to the residual stream."""
        return True

    def measured(self, files: Shapes) -> Family:
        """Return the family, given the shapes of the files by name; a declared one knows its own."""
        del files
        return self

    def num_tensors(self) -> int:
        """Return how many tensors the blocks have, counted without listing them."""
        return self.num_hidden_layers * len(self.block_shapes(0))

    def stands_for(self, name: str) -> int:
        """Return how many parameters a tensor of this name may stand for."""
        del name
        return 1

    @abstractmethod
    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned."""

    @abstractmethod
    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block that is no bias of such a map, by name within the block."""

    @abstractmethod
    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out."""

    def head_shapes(self) -> Shapes:
        """Return the parameters of the head."""
        return {"lm_head.weight": (self.vocab_size, self.hidden_size)}

    def stacks(self, block: int) -> dict[str, tuple[tuple[int, ...], list[str]]]:
        """Return the tensors that may stand for several parameters of a block: name -> shape and parameters."""
        del block
        return {}

    def block_shapes(self, block: int) -> Shapes:
        """Return all parameters of a block as they are stored, by name within the block."""
        shapes = self.others(block)
        for name, each in self.maps(block).items():
            stored = (each.inputs, each.outputs) if self.transposed else (each.outputs, each.inputs)
            shapes[f"{name}.weight"] = stored
            if each.biased:
                shapes[f"{name}.bias"] = (each.outputs,)
        return shapes

    def parameter(self, tensor: str) -> str:
        """Return the parameter's name for a tensor of the files."""
        for pattern, replacement in self.other_names:
            tensor = re.sub(pattern, replacement, tensor)
        tensor = tensor.removeprefix(self.base) if tensor.startswith(f"{self.base}lm_head.") else tensor
        return tensor if tensor.startswith((self.base, "lm_head.")) else f"{self.base}{tensor}"


def _faults(family: type[Family]) -> Iterator[str]:
    """Yield the faults of a declaration: missing fields, and names of fields that it does not have."""
    tag = family.model_fields["model_type"]
    if get_args(tag.annotation) != (tag.default,):
        yield f"declares `model_type` {tag.default!r} and does not say so in its type"
    if not isinstance(getattr(family, "architecture", None), str):
        yield "names no stock class in `architecture`"
    if not (family.__doc__ or "").strip():
        yield "says nothing of itself: `/v1/methods` shows its docstring"
    if missing := sorted(family.__abstractmethods__):
        yield f"leaves out {', '.join(missing)}"
    if absent := sorted(family.named_fields() - family.model_fields.keys()):
        yield f"names fields that it does not have: {', '.join(map(repr, absent))}"
    if open_ := sorted({"neurons", "kv_groups"} - family.readers.keys() - family.whole.keys()):
        yield f"neither names in `readers` what reads {', '.join(open_)} nor says in `whole` why they stay"
    if "neurons" in family.readers.keys() - family.whole.keys() and family.width_field is None:
        yield "names no `width_field`, and its neurons can go"
