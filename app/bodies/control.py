"""The bodies of requests about a job that is there: change it, try it again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.bodies.job import LabelKey, LabelValue, Limits
from espalier.recipe.base import Spec

Priority = Literal["low", "normal", "high"]


class JobPatch(Spec):
    """Changes of a job: name and labels at any time, the priority while it is queued or paused."""

    name: str | None = Field(None, min_length=1, max_length=200)
    labels: dict[LabelKey, LabelValue | None] | None = Field(
        None, max_length=64, description="Merged into the job's; null removes a label."
    )
    priority: Priority | None = None


class Retry(Spec):
    """Another go of a failed, expired or cancelled job; to change anything else, clone it."""

    from_: Literal["failed_phase", "start"] = Field(
        "failed_phase", alias="from", description="failed_phase: from its last checkpoint; start: from nothing."
    )
    limits: Limits | None = Field(None, description="Merged into the job's; running time counts from the retry.")
    priority: Priority | None = None
