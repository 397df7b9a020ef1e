"""The body of POST /v1/jobs: a source, a spec, and options of the job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from app.integrations.systems import Source
from espalier.recipe.base import Spec, fingerprint
from espalier.recipe.refusals.unbuilt import UnbuiltFlag, later
from espalier.recipe.spec import CompressionSpec


def _no_truth(value: object) -> object:
    if isinstance(value, bool):  # equal to 1, and so one of the numbers of a Literal
        raise PydanticKnownError("int_type")
    return value


class Limits(Spec):
    """Bounds on time and memory."""

    max_run_seconds: float | None = Field(None, gt=0, le=30 * 86_400, description="Running time over all attempts.")
    max_pending_seconds: float | None = Field(None, gt=0, le=365 * 86_400, description="Time in the queue.")
    max_device_memory_bytes: int | None = Field(
        None, ge=2**20, le=2**63 - 1, description="Of the GPU; a CPU job ignores it."
    )
    max_host_memory_bytes: int | None = Field(
        None, ge=2**28, le=2**63 - 1, description="Of the computing process, its libraries included (about half a GB)."
    )
    gpus: Annotated[Literal[1, 2, 4, 8] | None, BeforeValidator(_no_truth)] = Field(
        None,
        description="Cards that compute the job together, each with a process of its own; null: one. Pruning gives the "
        "same bytes for any number; reconstruction for any number that is named, 1 included.",
    )


LabelKey = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][\w./-]*$")]


LabelValue = Annotated[str, Field(max_length=255)]


class JobRequest(Spec):
    """A model and what to do with it."""

    name: str | None = Field(None, min_length=1, max_length=200, description="For people; default: made from the spec.")
    source: Source
    spec: CompressionSpec
    plan_id: str | None = Field(
        None, pattern=r"^pln_[0-9A-Z]{26}$", description="A plan of the same source and spec, not older than a day."
    )
    priority: Literal["low", "normal", "high"] = "normal"
    reuse: Literal["auto", "never", "require"] = Field(
        "auto", description="An equal result: taken where there is one, never, or nothing else."
    )
    labels: dict[LabelKey, LabelValue] = Field({}, max_length=64)
    limits: Limits = Limits()

    @property
    def planned_sha256(self) -> str:
        """Hash of what a plan is made of: source and spec."""
        return fingerprint(self.model_dump(mode="json", include={"source", "spec"}))


class PlanRequest(JobRequest):
    """The body of POST /v1/plans: a request for a job, and options of the plan."""

    forecast: UnbuiltFlag = later("Tell the perplexity that the result would have.", default=False)
