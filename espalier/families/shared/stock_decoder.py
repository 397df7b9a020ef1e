"""Families without a declaration: what transformers itself says of a decoder, and shapes that the files say."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, create_model, model_validator
from pydantic_core import PydanticCustomError

from espalier.errors import UnsafeSource
from espalier.families.shared.family import Family, Map, Maps, Shapes
from espalier.families.shared.fields import Activation, Count, Depth, Positions, TokenId
from espalier.families.shared.rotary import Part, Rope, Theta

LONGEST_LIST: Final = 4096
_WHOLE: Final = "no declaration of the family says which settings such a cut changes"
Text = Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Size = Annotated[int, Field(ge=-1, le=2**20)]
Length = Annotated[int, Field(ge=-1, le=2**27)]
"""Of tokens."""
Scalar = Size | Number | bool | Text | None
Nested = Scalar | Annotated[list[Scalar], Field(max_length=64)] | Annotated[dict[Text, Scalar], Field(max_length=64)]
_KINDS: Final[Mapping[str, Any]] = {
    "int": Size,
    "float": Number,
    "bool": bool,
    "str": Text,
    "list": Annotated[list[Nested | Annotated[list[Nested], Field(max_length=64)]], Field(max_length=LONGEST_LIST)],
    "dict": Annotated[dict[Text, Nested], Field(max_length=64)],
    "None": None,
}
_NEVER: Final = frozenset({"use_bidirectional_attention", "add_cross_attention"})
"""Settings that make another model of a causal one."""
_BOUNDS: Final[Mapping[str, Any]] = {
    "vocab_size": Annotated[int, Field(ge=2, le=2**24)],
    "hidden_size": Count,
    "num_hidden_layers": Depth,
    "num_attention_heads": Count,
    "max_position_embeddings": Positions,
}
"""Fields that every family has, by the name that it gives them."""


class StockRow(BaseModel):
    """What the table says of one decoder of transformers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    fields: dict[str, tuple[str, Any]]
    """Key of config.json -> its kinds, joined by `|`, and its default."""
    aliases: dict[str, str] = {}
    """Other names that the stock class reads, and the key that each stands for."""
    names: dict[str, str] = {}
    """What every family calls a key -> the key, where the stock class has no such alias."""
    rotates_in_part: bool = False
    """Whether the stock class reads `partial_rotary_factor`."""
    rope_keys: tuple[str, ...] = ()
    """Keys of `rope_parameters` that are this type's own."""
    refused: str | None = None
    """Why it is not admitted; then what follows is empty."""
    base: str = ""
    blocks: str = ""
    transposed: bool = False
    maps: tuple[str, ...] = ()
    """Linear layers of a block, by module name within it."""
    parameters: dict[str, int] = {}
    """Every parameter that a block may have, by name within it -> its number of dimensions."""
    optional: tuple[str, ...] = ()
    """Those that a setting adds or takes away; names outside the blocks too."""
    outer: tuple[str, ...] = ()
    """Parameters outside the blocks but the head's weight; the embeddings come first."""
    head: str = ""
    halves: bool = True
    """Whether attention and MLP each add to the residual stream."""


class StockDecoder(Family):
    """A decoder of stock transformers that needs no declaration."""

    row: ClassVar[StockRow]
    whole: ClassVar[Mapping[str, str]] = dict.fromkeys(("depth", "neurons", "kv_groups", "experts", "replace"), _WHOLE)
    notes: ClassVar[str] = "by the certificate alone: no part of it can be removed whole"

    _blocks: dict[int, Shapes] = PrivateAttr(default_factory=dict)
    _outer: Shapes = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _rotation_is_read(self) -> Self:
        ropes = (getattr(self, name, None) for name in ("rope_parameters", "rope_scaling"))
        each = [rope for one in ropes if one for rope in (one.values() if isinstance(one, dict) else [one])]
        factors = {rope.partial_rotary_factor for rope in each} | {getattr(self, "partial_rotary_factor", None)}
        if not self.row.rotates_in_part and factors - {None, 1.0}:
            why = "a stock {kind} rotates whole heads: it does not read partial_rotary_factor"
            raise PydanticCustomError("bad_config", why, {"kind": self.model_type})
        return self

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return getattr(self, "num_key_value_heads", None) or self.num_attention_heads

    def measured(self, files: Shapes) -> Self:
        """Return the same family with the shapes of the files; raises UnsafeSource for tensors that are missing."""
        inside, outside = defaultdict[int, Shapes](dict), Shapes()
        block = re.compile(re.escape(self.blocks) + r"\.(\d{1,6})\.(.+)")
        for tensor, shape in files.items():
            name = self.parameter(tensor)
            if match := block.fullmatch(name):
                inside[int(match[1])][match[2]] = shape
            else:
                outside[name] = shape
        self._require_known(inside)
        copy = self.model_copy()
        copy._blocks, copy._outer = dict(inside), {name: outside[name] for name in self.row.outer if name in outside}
        if self.row.outer[0] not in outside and self.tie_word_embeddings and self.row.head in outside:
            copy._outer = {self.row.outer[0]: outside[self.row.head]} | copy._outer
        for name in self.row.outer:
            if name not in copy._outer and name not in self.row.optional:
                raise _missing(name, self.model_type)
        return copy

    def _require_known(self, inside: Mapping[int, Shapes]) -> None:
        first = inside.get(0, {})
        for index, shapes in inside.items():
            for name, dimensions in self.row.parameters.items():
                if name not in shapes and (name in first or name not in self.row.optional):
                    raise _missing(f"{self.blocks}.{index}.{name}", self.model_type)
                if name in shapes and (len(shapes[name]) != dimensions or shapes[name] != first.get(name)):
                    where = f"{self.blocks}.{index}.{name}"
                    why = f"Tensor {where} has shape {list(shapes[name])}, which no {self.model_type} has there."
                    raise UnsafeSource(why, module=where)

    def splits_in_halves(self) -> bool:
        """Tell whether attention and MLP each add to the residual stream."""
        return self.row.halves

    def num_tensors(self) -> int:
        """Return how many tensors the blocks have at least, counted without listing them."""
        return self.num_hidden_layers * len(self.row.parameters.keys() - set(self.row.optional))

    def maps(self, block: int) -> Maps:
        """Return the linear layers of a block that are pruned, of the shapes that the files have."""
        shapes, maps = self._blocks[block], Maps()
        for name in self.row.maps:
            outputs, inputs = shapes[f"{name}.weight"][:: -1 if self.transposed else 1]
            maps[name] = Map(outputs, inputs, f"{name}.bias" in shapes)
        return maps

    def others(self, block: int) -> Shapes:
        """Return every other parameter of a block."""
        of_maps = {f"{name}.{leaf}" for name in self.row.maps for leaf in ("weight", "bias")}
        known = self.row.parameters.keys() - of_maps
        return {name: shape for name, shape in self._blocks[block].items() if name in known}

    def outer_shapes(self) -> Shapes:
        """Return the parameters outside the blocks, the head left out; embeddings have a row for every token."""
        first = self.row.outer[0]
        return {**self._outer, first: (self.vocab_size, *self._outer[first][1:])}

    def head_shapes(self) -> Shapes:
        """Return the parameters of the head."""
        return {self.row.head: (self.vocab_size, *self._outer[self.row.outer[0]][1:])}

    def parameter(self, tensor: str) -> str:
        """Return the parameter's name for a tensor of the files."""
        head = self.row.head.rpartition(".")[0] + "."
        return tensor if tensor.startswith((self.base, head)) else f"{self.base}{tensor}"


def stock_family(model_type: str, row: StockRow) -> type[StockDecoder]:
    """Return the family of a decoder that the table admits."""
    assert row.refused is None
    keys = {key: name for name, key in (row.aliases | row.names).items() if name in Family.model_fields}
    fields: dict[str, Any] = {"model_type": (Literal[model_type], model_type)}
    for key, (kinds, default) in row.fields.items():
        name = keys.get(key, key)
        fields[name] = (_type(name, kinds, default, _rope(row)), Field(default, alias=key if name != key else None))
    if "rope_parameters" in row.fields:
        fields |= {"rope_theta": (Theta | None, None), "rope_scaling": (_rope(row) | None, None)}
        fields.setdefault("partial_rotary_factor", (Part | None, None))
    settings = {"row": row, "architecture": row.architecture, "transposed": row.transposed, "base": row.base}
    settings |= {"blocks": row.blocks, "other_keys": row.aliases, "__module__": __name__}
    base = type(f"{row.architecture}Settings", (StockDecoder,), settings)
    return create_model(row.architecture, __base__=base, __doc__=_summary(row), **fields)


def _rope(row: StockRow) -> type[Rope]:
    own: dict[str, Any] = dict.fromkeys(row.rope_keys, (Scalar, None))
    return create_model("StockRope", __base__=Rope, **own) if own else Rope


def _summary(row: StockRow) -> str:
    return f"{row.architecture} of stock transformers, by its certificate."


def _type(name: str, kinds: str, default: object, rope: type[Rope]) -> Any:  # noqa: ANN401 - an annotation
    if name == "rope_parameters":
        return rope | Annotated[dict[Text, rope], Field(max_length=8)] | None  # type: ignore[valid-type]
    each = kinds.split("|")
    if name in _NEVER:
        return Literal[False] | None
    if name in _BOUNDS:
        return _BOUNDS[name]
    if name.endswith("_token_id"):
        return TokenId | list[TokenId] | None
    if re.search(r"activation|hidden_act$", name) and "str" in each:
        named = Activation | Literal[default] if isinstance(default, str) else Activation
        return named | None if "None" in each else named
    kinds_of = {**_KINDS, "int": Length} if re.search("position|length|seq|window|context", name) else _KINDS
    return reduce(or_, (kinds_of[kind] for kind in each))


def _missing(name: str, kind: str) -> UnsafeSource:
    return UnsafeSource(f"Tensor {name} is missing: a {kind} model of this configuration has one.", module=name)
