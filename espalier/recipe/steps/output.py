"""The output step: format and dtype of the artifact, and where it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from espalier.formats import FORMATS
from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import Unbuilt, is_list, later, refusing, refusing_if
from espalier.recipe.steps.publish import PublishTarget

FORMAT_NAMES: Final = ("safetensors", *(name for name in FORMATS if name != "safetensors"))
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[FORMAT_NAMES]


Dtype = Literal["float32", "bfloat16", "float16"]
"""What weights are stored in."""


class Output(Spec):
    """How the artifact is written."""

    format: Annotated[
        FormatName,
        refusing(*{"compressed-tensors", "gguf"} - set(FORMAT_NAMES)),
        refusing_if(is_list, "a list of formats"),
    ] = Field("safetensors", description="; ".join(f"{name}: {FORMATS[name].summary}" for name in FORMAT_NAMES) + ".")
    gguf_type: Unbuilt = later("Type of the tensors of a GGUF file.")
    layout: Annotated[Literal["stock"], refusing("custom")] = later(
        "Whose code loads the result: that of stock transformers, or (custom) a file beside it.", default="stock"
    )
    dtype: Dtype | None = Field(None, description="Default: the input's.")
    publish: list[PublishTarget] = Field(
        [], max_length=8, description="Where the result goes, unless its gate is rejected."
    )
