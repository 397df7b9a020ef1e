"""Bounds of an untrusted configuration's fields, by what the number means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=1, le=4096)]
Positions = Annotated[int, Field(ge=8, le=2**27)]
TokenId = Annotated[int, Field(ge=-1, le=2**24)]
Ratio = Annotated[float, Field(ge=0, le=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]
Word = Annotated[str, Field(max_length=64, pattern=r"^\w+$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
HeadSize = Annotated[int, Field(ge=2, le=8192)]
ExpertCount = Annotated[int, Field(ge=1, le=4096)]
BlockIndex = Annotated[int, Field(ge=0, le=4096)]
Dtype = Literal["float32", "float16", "bfloat16", "float64", "float", "half", "double"]
"""What torch has under these names, of what a model is computed in."""
Activation = Literal[
    "gelu",
    "gelu_10",
    "gelu_fast",
    "gelu_new",
    "gelu_python",
    "gelu_pytorch_tanh",
    "leaky_relu",
    "mish",
    "quick_gelu",
    "relu",
    "relu2",
    "relu6",
    "sigmoid",
    "silu",
    "swish",
    "tanh",
]
LayerTypes = Annotated[list[Literal["full_attention", "sliding_attention"]], Field(max_length=4096)]
