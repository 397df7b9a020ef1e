"""The step that retrains a few parameters, or all."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import refusing
from espalier.recipe.steps.dataset import Dataset, Seed
from espalier.recipe.steps.reconstruct import LearningRate

Schedule = Literal["linear", "cosine", "constant", "slr", "clr", "llr", "allr"]
SCHEDULES: Final[tuple[Schedule, ...]] = get_args(Schedule)
Trained = Literal["norms", "biases", "head", "embeddings", "mask_lora", "scale_lora", "lora_prune", "lora", "spp"]
Distilled = Literal["kl", "squarehead"]
"""Losses against the dense model, which is kept as teacher."""
ADAPTERS: Final = frozenset({"mask_lora", "scale_lora", "lora_prune", "lora", "spp"})
"""Low-rank updates of pruned matrices: a matrix has room for one."""


class Retrain(Spec):
    """Retraining of a few parameters (PERP, arXiv 2312.15230) or of all, zeros kept."""

    method: Literal["perp", "full"] = Field("perp", description="full: every parameter, `trainable` left out.")
    trainable: list[Trained] = Field(
        ["norms", "mask_lora"],
        max_length=9,
        description="`lora` stays an adapter beside the model; `head` is low-rank and merged, `embeddings` are whole.",
    )
    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(32, gt=0, le=65_536, description="Updates count alpha / rank times; scale_lora has no factor.")
    steps: int = Field(200, ge=1, le=10_000_000, description="Optimizer steps.")
    batch_size: int = Field(8, ge=1, le=65_536)
    accumulate: int = Field(1, ge=1, le=65_536, description="Micro-batches per optimizer step.")
    learning_rate: LearningRate = Field("auto", description="auto: a short search around a rate for each trainable.")
    rate_factor: float | None = Field(
        None, gt=0, le=100, description="With learning_rate auto: what a search has found before, in place of one."
    )
    weight_decay: float = Field(0.0, ge=0, le=10, description="Of matrices; norms and biases never decay.")
    schedule: Schedule = Field("linear", description="10 % warm-up; allr starts by the pruning distance (2111.00843).")
    loss: Annotated[Literal["cross_entropy", Distilled], refusing("embedding")] = Field(
        "cross_entropy", description="kl and squarehead (arXiv 2310.06927) keep the dense model in memory as teacher."
    )
    patience: int | None = Field(None, ge=1, le=10_000, description="Early stopping: held-out checks without gain.")
    gradient_checkpointing: bool | Literal["auto"] = Field("auto", description="auto: where activations are large.")
    dataset: Dataset | None = Field(None, description="Default: the calibration's data set.")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default: the calibration's.")
    seed: Seed = 0
    order_seed: Seed | None = Field(None, description="Seed of the text's order alone; default: `seed`.")

    @model_validator(mode="before")
    @classmethod
    def _full_names_nothing(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("method") == "full":
            return {"trainable": [], **value}
        return value

    @model_validator(mode="after")
    def _something_is_trained_once(self) -> Retrain:
        if self.method == "full" and self.trainable:
            raise PydanticCustomError("contradictory_trainable", "full trains all; leave it out", {"at": "trainable"})
        if self.method == "perp" and not self.trainable:
            raise PydanticCustomError("nothing_to_train", "name at least one trainable", {"at": "trainable"})
        if self.rate_factor is not None and self.learning_rate != "auto":
            raise PydanticCustomError("contradictory_rate", "name a rate or a factor, not both", {"at": "rate_factor"})
        for index, name in enumerate(self.trainable):
            if name in self.trainable[:index]:
                raise PydanticCustomError("duplicate_name", "named twice", {"at": f"trainable/{index}"})
            if name in ADAPTERS and ADAPTERS & set(self.trainable[:index]):
                raise PydanticCustomError(
                    "several_adapters", "a matrix has room for one kind of adapter", {"at": f"trainable/{index}"}
                )
        return self

    @property
    def adapter(self) -> Trained | None:
        """The kind of low-rank update that pruned matrices get."""
        return next((name for name in self.trainable if name in ADAPTERS), None)
