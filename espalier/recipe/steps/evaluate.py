"""The evaluation step: measurements, and the gate that a result must pass."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import Unbuilt, UnbuiltFlag, UnbuiltList, later
from espalier.recipe.steps.dataset import BuiltinDataset, Dataset, dataset_name


class Perplexity(Spec):
    """One measurement: exp of the mean cross entropy over non-overlapping windows."""

    name: str | None = Field(
        None, min_length=1, max_length=64, pattern=r"^[\w.-]+$", description="Default: data set's."
    )
    dataset: Dataset = BuiltinDataset(split="validation")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default min(2048, model maximum).")
    max_windows: int | None = Field(None, ge=1, le=1_000_000, description="First windows only; default: all.")

    @property
    def key(self) -> str:
        """The name under which reports show this measurement."""
        return self.name or dataset_name(self.dataset)


TaskName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w-][\w.-]*$")]


class Evaluate(Spec):
    """What is measured on the dense model and on the artifact."""

    perplexity: list[Perplexity] = Field([Perplexity()], max_length=16)
    tasks: list[TaskName] = Field(
        [], max_length=64, description="Names of lm-eval; the worker needs the extra `tasks` and their data."
    )
    divergence: bool = Field(
        False, description="Also KL and top-1 agreement with the dense model, on the windows of the perplexity."
    )
    latency: bool = Field(True, description="Time the dense model and the result on the worker: prompt and decoding.")
    after_each_phase: bool = Field(False, description="Also measure after reconstruction and retraining.")
    continuation: Unbuilt = later("How far texts that the result continues agree with the dense model's.")
    embeddings: Unbuilt = later("Of encoders: cosine to the dense embeddings, and shared nearest neighbours.")
    groups: UnbuiltList = later("Named texts, of which the worst is compared with the mean.", default=[])
    runtimes: UnbuiltList = later("Programs that load the artifact and are timed.", default=[])
    intervals: UnbuiltFlag = later("Intervals of every difference from the dense model.", default=False)
    compare_to: Unbuilt = later("Another model that is scored by the same protocol.")

    @model_validator(mode="after")
    def _tasks_differ(self) -> Evaluate:
        for index, name in enumerate(self.tasks):
            if name in self.tasks[:index]:
                raise PydanticCustomError("duplicate_name", "a task is named twice", {"at": f"tasks/{index}"})
        return self

    @model_validator(mode="after")
    def _divergence_has_windows(self) -> Evaluate:
        if self.divergence and not self.perplexity:
            raise PydanticCustomError(
                "nothing_to_measure",
                "`divergence` reads the windows of `perplexity`, which is empty",
                {"at": "divergence"},
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Evaluate:
        names = [item.key for item in self.perplexity]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise PydanticCustomError(
                    "duplicate_name", "two measurements have the same name", {"at": f"perplexity/{index}/name"}
                )
        return self


class Gate(Spec):
    """Limits that a result must keep to be published."""

    max_relative_perplexity_increase: float | None = Field(None, gt=-1, le=1e6, description="0.1: 10 % over dense.")
    max_perplexity: float | None = Field(None, gt=1, le=1e9)
    min_sparsity: float | None = Field(None, ge=0, lt=1)
    min_continuation_agreement: Unbuilt = later("Least agreement of `evaluate.continuation`.")
    max_task_drop: Unbuilt = later("Most that a task of `evaluate.tasks` may lose.")
    max_group_gap: Unbuilt = later("Most between the worst of `evaluate.groups` and their mean.")
    max_length_ratio: Unbuilt = later("Most that continuations may grow longer than the dense model's.")
    min_cosine: Unbuilt = later("Least cosine of `evaluate.embeddings`.")
    min_overlap: Unbuilt = later("Least overlap of nearest neighbours of `evaluate.embeddings`.")
