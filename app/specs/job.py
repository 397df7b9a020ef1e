"""The body of POST /v1/jobs, and the rules that cross its steps."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from app.specs.base import Spec, Unbuilt, not_available, refusing
from app.specs.prune import Prune
from app.specs.source import Source
from app.specs.steps import Calibration, Evaluate, Gate, Output, Reconstruct, Retrain

SCHEMA_VERSION = 1
ENGINE_VERSION = "1"
"""Part of every work hash: raised whenever equal specs would give other bytes."""


def _one_step(value: object) -> object:
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list) and len(value) > 1:
        raise not_available("a list of several prune steps")
    return value


PruneSteps = Annotated[list[Prune], Field(max_length=1)]


class CompressionSpec(Spec):
    """What is done to the model."""

    preset: Unbuilt = None
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Forward passes only.")
    calibration: Calibration = Calibration()
    propagation: Annotated[Literal["sequential"], refusing("dense")] = "sequential"
    prune: Annotated[PruneSteps, BeforeValidator(_one_step, json_schema_input_type=Union[Prune, PruneSteps])]  # noqa: UP007
    reconstruct: Reconstruct | None = None
    retrain: Retrain | None = None
    cycles: Unbuilt = None
    soup: Unbuilt = None
    evaluate: Evaluate = Evaluate()
    objective: Unbuilt = None
    gate: Gate | None = None
    output: Output = Output()

    @model_validator(mode="after")
    def _interleaving_prunes(self) -> CompressionSpec:
        if self.reconstruct and self.reconstruct.interleave and not self.prune:
            raise PydanticCustomError(
                "nothing_to_interleave",
                "`interleave` prunes each block before it is fitted, and `prune` is empty",
                {"at": "reconstruct/interleave"},
            )
        return self

    @model_validator(mode="after")
    def _training_text_is_not_evaluation_text(self) -> CompressionSpec:
        seen = [self.calibration.dataset]
        if self.retrain and self.retrain.dataset:
            seen.append(self.retrain.dataset)
        for index, item in enumerate(self.evaluate.perplexity):
            if item.dataset in seen:
                raise PydanticCustomError(
                    "training_text_is_evaluation_text",
                    "evaluate.perplexity[{index}] reads the same text that the job calibrates or trains on",
                    {"index": index, "at": f"evaluate/perplexity/{index}/dataset"},
                )
        return self


class Limits(Spec):
    """Bounds on time and memory."""

    max_run_seconds: float | None = Field(None, gt=0, le=30 * 86_400, description="Running time over all attempts.")
    max_pending_seconds: float | None = Field(None, gt=0, le=365 * 86_400, description="Time in the queue.")
    max_device_memory_bytes: Unbuilt = None
    max_host_memory_bytes: Unbuilt = None


LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][\w./-]*$")]
LabelValue = Annotated[str, Field(max_length=255)]


class JobRequest(Spec):
    """A model and what to do with it."""

    name: str | None = Field(None, min_length=1, max_length=200, description="For people; default: made from the spec.")
    source: Source
    spec: CompressionSpec
    plan_id: Unbuilt = None
    priority: Literal["low", "normal", "high"] = "normal"
    reuse: Literal["auto", "never", "require"] = Field(
        "auto", description="An equal result: taken where there is one, never, or nothing else."
    )
    labels: dict[LabelKey, LabelValue] = Field({}, max_length=64)
    limits: Limits = Limits()
