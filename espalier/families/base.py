"""What every family of models has: a configuration that we fully know, and the tensors that it asks for."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1, le=2**20)]
Positions = Annotated[int, Field(ge=8, le=2**27)]
TokenId = Annotated[int, Field(ge=-1, le=2**24)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Word = Annotated[str, Field(max_length=64, pattern=r"^\w+$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]


Dtype = Literal["float32", "float16", "bfloat16", "float64", "float", "half", "double"]
"""What torch has under these names, of what a model is computed in."""
HeadSize = Annotated[int, Field(ge=2, le=8192)]
Activation = Literal[
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "leaky_relu", "mish",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip
LayerTypes = Annotated[list[Literal["full_attention", "sliding_attention"]], Field(max_length=4096)]

NORM_BEHIND = "a norm stands between its last matrix and the hidden states"
Shapes = dict[str, tuple[int, ...]]


class Map(NamedTuple):
    """A linear map inside a block, in the module's own sense."""

    outputs: int
    inputs: int
    biased: bool = False


Maps = dict[str, Map]
"""Linear maps by module name within the block."""


class Family(BaseModel, ABC):
    """What every supported configuration has. What is dropped, transformers never sees."""

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

    model_type: str
    architectures: list[Word] | None = Field(None, max_length=8)
    vocab_size: Annotated[int, Field(ge=2, le=2**24)]
    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=4096)]
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
        """Every key of config.json that is read, under all its names."""
        return frozenset({field.alias or name for name, field in cls.model_fields.items()} | cls.other_keys.keys())

    def spelled(self) -> int:
        """How many tensors its blocks have, counted and not spelled out."""
        return self.num_hidden_layers * len(self.block_shapes(0))

    def stands_for(self, name: str) -> int:
        """How many parameters a tensor of this name may stand for."""
        del name
        return 1

    def splits_in_halves(self) -> bool:
        """Tell whether attention and feed-forward net each add to the same stream of hidden states."""
        return True

    def why_not(self, part: str) -> str | None:
        """Why no stock configuration of the family can have fewer units of a part; None when one can.

        Of `replace`: why no matrix can stand in for a block.
        """
        return self.whole.get(part)

    @abstractmethod
    def maps(self, block: int) -> Maps:
        """The linear maps of a block that are pruned."""

    @abstractmethod
    def others(self, block: int) -> Shapes:
        """Every other parameter of a block that is no bias of such a map, by name within the block."""

    @abstractmethod
    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""

    def head_shapes(self) -> Shapes:
        """Parameters of the head."""
        return {"lm_head.weight": (self.vocab_size, self.hidden_size)}

    def stacks(self, block: int) -> dict[str, tuple[tuple[int, ...], list[str]]]:
        """Tensors that may stand for several parameters of a block: name -> shape and parameters."""
        del block
        return {}

    def block_shapes(self, block: int) -> Shapes:
        """All parameters of a block as they are stored, by name within the block."""
        shapes = self.others(block)
        for name, each in self.maps(block).items():
            stored = (each.inputs, each.outputs) if self.transposed else (each.outputs, each.inputs)
            shapes[f"{name}.weight"] = stored
            if each.biased:
                shapes[f"{name}.bias"] = (each.outputs,)
        return shapes

    def parameter(self, tensor: str) -> str:
        """The parameter that a tensor of the files is, by name."""
        for pattern, replacement in self.other_names:
            tensor = re.sub(pattern, replacement, tensor)
        tensor = tensor.removeprefix(self.base) if tensor.startswith(f"{self.base}lm_head.") else tensor
        return tensor if tensor.startswith((self.base, "lm_head.")) else f"{self.base}{tensor}"


class EvenHeads(Family):
    """Families whose heads divide the hidden size."""

    @model_validator(mode="after")
    def _heads_fit(self) -> EvenHeads:
        if self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self


def layer_norm(*names: str, width: int) -> Shapes:
    """Shapes of norms with weight and bias."""
    return {f"{name}.{part}": (width,) for name in names for part in ("weight", "bias")}


def rms_norm(*names: str, width: int) -> Shapes:
    """Shapes of norms with a weight alone."""
    return {f"{name}.weight": (width,) for name in names}


def fit_layers(kinds: LayerTypes | None, blocks: int, *, windowed: bool) -> None:
    """Refuse `layer_types` that do not fit the number of blocks, or slide without a window."""
    if kinds is not None and len(kinds) != blocks:
        raise PydanticCustomError("bad_config", "layer_types does not have one entry per block")
    if kinds is not None and "sliding_attention" in kinds and not windowed:
        raise PydanticCustomError("bad_config", "layer_types slides, and no sliding_window is in use")
