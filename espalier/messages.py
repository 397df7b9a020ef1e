"""Messages of a compute job: its request, and what it reports; plain records, written and read as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from espalier.errors import DeviceFault, EngineError, ErrorClass
from espalier.families.sizes import Sizes
from espalier.recipe.phases import Phase
from espalier.recipe.spec import CompressionSpec

DeviceChoice = Literal["auto", "cpu", "cuda"]
"""Where a job computes; auto: on a GPU where there is one."""


class Message(BaseModel):
    """One line on the pipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredCheckpoint(Message):
    """A file that an earlier attempt finished, as it lies in this attempt's workspace."""

    phase: Phase
    name: str
    """As espalier.checkpoint_names writes it: unique within the phase; a later one of the same name replaces it."""
    path: str
    """Relative to the workspace."""
    sha256: str
    bytes: int
    data: dict[str, Any] = {}
    """What the child wants back: seconds, layer rows, phase results."""
    origin: str | None = None
    """The other job that made it; null for one of our own."""


class ComputeRequest(Message):
    """What the compute child reads: read-only paths, no credentials."""

    spec: CompressionSpec
    """Resolved: nothing in it is left to a default."""
    model_dir: str
    revision: str
    source_name: str
    dropped_keys: list[str] = []
    """Of the source's config.json, what is not known here and no part of what is computed."""
    datasets: dict[str, str]
    """Fingerprint of a data set's spec -> path of its plain text (builtin ones are not listed)."""
    workspace: str
    artifact_dir: str
    member_dirs: list[str] = []
    """Finished members of a soup, as artifact folders; empty: the members are trained here."""
    member_trained: int = 0
    """How many parameters each of them has trained."""
    sizes: Sizes | None = None
    """Of the model's parts: what a search for a size goes by."""
    spread: bool = False
    """Members of a soup are left to jobs of their own: the child ends with `spread` where they would begin."""
    checkpoints: list[StoredCheckpoint] = []
    threads: int = 1
    """Of each rank."""
    ranks: Literal[1, 2, 4, 8] = 1
    """Processes that compute the job together, each on a card of its own where it computes on cards."""
    in_pieces: bool = False
    """One rank reconstructs as several do, to the same bytes; several always do."""
    tasks_dir: str | None = None
    """Folder of lm-eval's task files and of their data."""
    device: DeviceChoice = "auto"
    max_host_memory_bytes: int | None = None
    max_device_memory_bytes: int | None = None
    ran_out: dict[Phase, int] = {}
    """How often memory ran out in a phase of earlier attempts: this one takes less there."""
    ran_out_on_host: bool = False
    """Whether any of it was the host's."""


class PhaseStarted(Message):
    """A phase begins."""

    kind: Literal["phase_started"] = "phase_started"
    phase: Phase
    total: int = 1
    unit: str = "step"
    turn: str = ""
    """The cycle or member whose phase it is; empty where phases run once."""


class PhaseCompleted(Message):
    """A phase ended; `seconds` counts the work of earlier attempts that was reused."""

    kind: Literal["phase_completed"] = "phase_completed"
    phase: Phase
    seconds: float
    peak_memory_bytes: int
    perplexity: dict[str, float] | None = None
    reused_from: str | None = None
    """The other job whose stored result the phase took over, or started from."""
    turn: str = ""
    """The cycle or member whose phase it was; empty where phases run once."""


class Progress(Message):
    """How far the current phase is."""

    kind: Literal["progress"] = "progress"
    phase: Phase
    current: int
    total: int
    unit: str


class Metric(Message):
    """One point of a series: training loss, learning rate, window error."""

    kind: Literal["metric"] = "metric"
    phase: Phase
    name: str
    step: int
    value: float


class Layer(Message):
    """One pruned matrix is done."""

    kind: Literal["layer"] = "layer"
    name: str
    block: int
    shape: list[int]
    pattern: str
    sparsity_requested: float
    sparsity_achieved: float
    error_before: float | None
    """||X(W - W*M)^T||_F / ||XW^T||_F on the calibration inputs, with the mask alone; squared norms' ratio."""
    error_after: float | None
    seconds: float


class Checkpoint(StoredCheckpoint):
    """A file is finished; the supervisor stores it and writes it into the row."""

    kind: Literal["checkpoint"] = "checkpoint"


class Warned(Message):
    """Something the user should know; it also stands in the report."""

    kind: Literal["warning"] = "warning"
    code: str
    text: str


class Log(Message):
    """A log line."""

    kind: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error"] = "info"
    text: str


class Alive(Message):
    """The process has made steps since it last said so."""

    kind: Literal["alive"] = "alive"


class ArtifactFile(Message):
    """One file of the result, path relative to the artifact folder."""

    path: str
    kind: Literal["model", "tokenizer", "mask", "report", "card", "manifest", "checkpoint", "log"]
    bytes: int
    sha256: str


class Done(Message):
    """The artifact folder is complete; the manifest is its last file."""

    kind: Literal["done"] = "done"
    report: dict[str, Any]
    gate: dict[str, Any] | None = None
    files: list[ArtifactFile]


class MembersRequested(Message):
    """What the job does itself is checkpointed; the rest is for jobs of their own."""

    kind: Literal["spread"] = "spread"


class ErrorInfo(Message):
    """Why an attempt failed, in words for the user."""

    class_: ErrorClass = Field(alias="class")
    retryable: bool
    phase: Phase | None = None
    module: str | None = None
    hint: str
    message: str
    outside: bool = Field(False, exclude=True)
    """Whether the machine was lost: nothing that the job did."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    @classmethod
    def of(cls, error: EngineError, phase: Phase | None) -> ErrorInfo:
        """Build the record of one of the library's errors."""
        return cls(
            class_=error.class_,
            retryable=error.retryable,
            phase=phase,
            module=error.module,
            hint=error.hint,
            message=error.message,
        )

    @classmethod
    def of_device(cls, fault: DeviceFault, phase: Phase | None) -> ErrorInfo:
        """Build the record of a GPU's failure; only what was our own request is not tried again."""
        return cls(
            class_=fault.class_,
            retryable=fault.class_ != "internal",
            phase=phase,
            hint=fault.hint,
            message=fault.message,
        )


class Failed(Message):
    """The child gives up."""

    kind: Literal["failed"] = "failed"
    error: ErrorInfo
