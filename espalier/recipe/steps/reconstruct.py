"""The step that refits the kept weights, window by window."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec

LearningRate = Annotated[float, Field(gt=0, le=1)] | Literal["auto"]


class BlockWindow(Spec):
    """Windows of several consecutive blocks; the last one takes what is left."""

    blocks: int = Field(ge=1, le=100_000)


WindowKind = Literal["submodule", "matrix", "block"]
"""Parts of a block that are fitted at once."""
FitLoss = Literal["mse", "cosine"]
"""mse: squared error relative to the target's power. cosine: one minus the cosine, per token. Both are 0 at best."""
Mode = Literal["dense_inputs", "sparse_inputs", "sparse_inputs_dense_targets"]


class Reconstruct(Spec):
    """Refit the kept weights window by window against the dense model's activations (arXiv 2510.14444)."""

    window: Annotated[
        Annotated[Literal[WindowKind, "all", "auto"], Tag("name")] | Annotated[BlockWindow, Tag("span")],
        Discriminator(lambda value: "span" if isinstance(value, dict | BlockWindow) else "name"),
    ] = Field(
        "submodule", description="What is fitted at once; auto: the largest of block, submodule, matrix that fits."
    )
    mode: Mode = Field(
        "dense_inputs",
        description="Whose activations a window reads and should give: the dense model's; the fitted prefix's and what "
        "the dense window makes of them; the fitted prefix's and the dense model's.",
    )
    trainable: list[Literal["weights", "norms", "biases", "mask_lora"]] = Field(
        ["weights", "norms", "biases"],
        min_length=1,
        max_length=3,
        description="`weights` or `mask_lora`, not both. Norms do not move in windows of one matrix, which hold none.",
    )
    rank: int = Field(16, ge=1, le=4096, description="Of mask_lora.")
    alpha: float = Field(32, gt=0, le=65_536, description="Of mask_lora: its update is scaled by alpha / rank.")
    loss: FitLoss = "mse"
    learning_rate: LearningRate = Field("auto", description="auto: a short search scaled to the weights.")
    epochs: int = Field(4, ge=1, le=1000, description="Passes at most; a fit that no longer improves ends early.")
    batch_size: int = Field(8, ge=1, le=4096)
    validation_fraction: float = Field(0.125, ge=0, le=0.5, description="Share of the windows held out.")
    interleave: bool = Field(False, description="Prune each block just before it is fitted.")

    def moves_a_matrix(self, *, biased: bool) -> bool:
        """Return whether anything is trained in a window of one matrix, which holds its weight and perhaps a bias."""
        return not set(self.trainable) <= ({"norms"} if biased else {"norms", "biases"})

    @model_validator(mode="after")
    def _one_way_to_move_the_weights(self) -> Reconstruct:
        if {"weights", "mask_lora"} <= set(self.trainable):
            at = {"at": f"trainable/{self.trainable.index('mask_lora')}"}
            raise PydanticCustomError("contradictory_trainable", "train `weights` or `mask_lora`, not both", at)
        return self
