"""The configurations that we know, and the tensors that a model of each must have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1, le=2**20)]
TokenId = Annotated[int, Field(ge=-1, le=2**24)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(max_length=64, pattern=r"^\w+$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Rope = dict[Word, bool | Number | Word | list[Number] | None]
Activation = Literal[
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "leaky_relu", "mish",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip

Shapes = dict[str, tuple[int, ...]]


class Family(BaseModel, ABC):
    """What every supported configuration has. Unknown fields are dropped: transformers never sees them."""

    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, allow_inf_nan=False, validate_by_name=False, validate_by_alias=True
    )

    architecture: ClassVar[str]
    """The stock class."""
    blocks: ClassVar[str]
    """Tensor name of the list of blocks."""

    model_type: str
    architectures: list[Word] | None = Field(None, max_length=8)
    vocab_size: Annotated[int, Field(ge=2, le=2**24)]
    hidden_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=4096)]
    num_attention_heads: Count
    max_position_embeddings: Annotated[int, Field(ge=8, le=2**27)]
    tie_word_embeddings: bool = False
    dtype: Word | None = None
    torch_dtype: Word | None = None
    transformers_version: Annotated[str, Field(max_length=64, pattern=r"^[\w.+-]*$")] | None = None
    use_cache: bool = True
    attention_dropout: Ratio = 0.0
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | Annotated[list[TokenId], Field(max_length=64)] | None = None
    pad_token_id: TokenId | None = None

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> Family:
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise PydanticCustomError("bad_config", "pad_token_id is outside the vocabulary")
        return self

    @abstractmethod
    def block_shapes(self) -> Shapes:
        """Parameters of one block, by name within the block."""

    @abstractmethod
    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""

    def head_shape(self) -> tuple[int, int]:
        """Shape of `lm_head.weight`."""
        return (self.vocab_size, self.hidden_size)


class LlamaLike(Family):
    """Rotary positions, RMS norms, a gated feed-forward net, grouped key and value heads."""

    blocks: ClassVar[str] = "model.layers"
    query_key_norms: ClassVar[bool] = False

    intermediate_size: Count
    num_key_value_heads: Count | None = None
    head_dim: Annotated[int, Field(ge=2, le=8192)] | None = None
    hidden_act: Activation = "silu"
    initializer_range: Ratio = 0.02
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] | None = None
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None

    @model_validator(mode="after")
    def _heads_fit(self) -> LlamaLike:
        if self.num_attention_heads % self.kv_heads:
            raise PydanticCustomError("bad_config", "num_key_value_heads does not divide num_attention_heads")
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def biased(self) -> frozenset[str]:
        """Linear maps of a block that have a bias."""
        return frozenset()

    def block_shapes(self) -> Shapes:
        """Parameters of one block, by name within the block."""
        hidden, wide = self.hidden_size, self.intermediate_size
        head = self.head_dim or hidden // self.num_attention_heads
        queries, keys = self.num_attention_heads * head, self.kv_heads * head
        maps = {
            "self_attn.q_proj": (queries, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }
        shapes: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        if self.query_key_norms:
            shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
        shapes |= {f"{name}.weight": shape for name, shape in maps.items()}
        return shapes | {f"{name}.bias": maps[name][:1] for name in self.biased}

    def outer_shapes(self) -> Shapes:
        """Parameters outside the blocks, the head left out."""
        return {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden_size),
            "model.norm.weight": (self.hidden_size,),
        }


ATTENTION = frozenset({"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})
FEED_FORWARD = frozenset({"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"})


class Llama(LlamaLike):
    """Llama 1 to 3 and their descendants."""

    architecture: ClassVar[str] = "LlamaForCausalLM"

    model_type: Literal["llama"]
    attention_bias: bool = False
    mlp_bias: bool = False
    pretraining_tp: Count = 1

    @property
    def biased(self) -> frozenset[str]:
        """Linear maps of a block that have a bias."""
        return (ATTENTION if self.attention_bias else frozenset()) | (FEED_FORWARD if self.mlp_bias else frozenset())


class Mistral(LlamaLike):
    """Mistral: Llama with a sliding window."""

    architecture: ClassVar[str] = "MistralForCausalLM"

    model_type: Literal["mistral"]
    num_key_value_heads: Count | None = 8
    sliding_window: Count | None = 4096


class Qwen(LlamaLike):
    """What Qwen 2 and 3 share."""

    num_key_value_heads: Count | None = 32
    use_sliding_window: bool = False
    sliding_window: Count | None = None
    max_window_layers: Annotated[int, Field(ge=0, le=4096)] = 28
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = Field(None, max_length=4096)

    @model_validator(mode="after")
    def _one_type_per_block(self) -> Qwen:
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise PydanticCustomError("bad_config", "layer_types does not have one entry per block")
        return self


class Qwen2(Qwen):
    """Qwen 2 and 2.5: biases on queries, keys and values."""

    architecture: ClassVar[str] = "Qwen2ForCausalLM"

    model_type: Literal["qwen2"]

    @property
    def biased(self) -> frozenset[str]:
        """Linear maps of a block that have a bias."""
        return ATTENTION - {"self_attn.o_proj"}


class Qwen3(Qwen):
    """Qwen 3, dense: norms on queries and keys."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"
    query_key_norms: ClassVar[bool] = True

    model_type: Literal["qwen3"]
    head_dim: Annotated[int, Field(ge=2, le=8192)] | None = 128
    attention_bias: bool = False

    @property
    def biased(self) -> frozenset[str]:
        """Linear maps of a block that have a bias."""
        return ATTENTION if self.attention_bias else frozenset()


class Opt(Family):
    """OPT: learned positions, layer norms, biases."""

    architecture: ClassVar[str] = "OPTForCausalLM"
    blocks: ClassVar[str] = "model.decoder.layers"

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
    remove_final_layer_norm: bool = Field(False, alias="_remove_final_layer_norm")

    @model_validator(mode="after")
    def _heads_fit(self) -> Opt:
        if self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError("bad_config", "num_attention_heads does not divide hidden_size")
        return self

    @property
    def embedding(self) -> int:
        """Width of the embeddings, which small OPT models project to the hidden size."""
        return self.word_embed_proj_dim or self.hidden_size

    def head_shape(self) -> tuple[int, int]:
        """Shape of `lm_head.weight`."""
        return (self.vocab_size, self.embedding)

    def _norm(self, name: str) -> Shapes:
        affine = ("weight", "bias") if self.layer_norm_elementwise_affine else ()
        return {f"{name}.{part}": (self.hidden_size,) for part in affine}

    def block_shapes(self) -> Shapes:
        """Parameters of one block, by name within the block."""
        hidden, wide = self.hidden_size, self.ffn_dim
        maps = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("k", "v", "q", "out")}
        maps |= {"fc1": (wide, hidden), "fc2": (hidden, wide)}
        shapes = self._norm("self_attn_layer_norm") | self._norm("final_layer_norm")
        shapes |= {f"{name}.weight": shape for name, shape in maps.items()}
        return shapes | ({f"{name}.bias": shape[:1] for name, shape in maps.items()} if self.enable_bias else {})

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
            shapes |= self._norm("model.decoder.final_layer_norm")
        return shapes


FAMILIES: dict[str, type[Family]] = {"llama": Llama, "mistral": Mistral, "opt": Opt, "qwen2": Qwen2, "qwen3": Qwen3}
"""The model types that are accepted."""
