"""Messages between the supervisor and its children: one request on stdin, JSON lines back."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from app.bodies.job import JobRequest
from app.bodies.stored import stored_spec
from espalier.messages import (
    Alive,
    Checkpoint,
    Done,
    Failed,
    Layer,
    Log,
    MembersRequested,
    Message,
    Metric,
    PhaseCompleted,
    PhaseStarted,
    Progress,
    StoredCheckpoint,
    Warned,
)
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from espalier.recipe.spec import CompressionSpec


class FetchRequest(Message):
    """What the fetcher child reads: no spec beyond sources and text, but the credentials."""

    job: JobRequest
    cache_dir: str
    cache_max_bytes: int
    workspace: str
    roots: list[str] = []
    systems: dict[str, dict[str, str]] = {}
    """Kind of every outside system that the job reads -> its address and the login."""
    refuse_outputs: bool = False
    """A rule made the job: the source must not be an output of ours."""
    uploads: dict[str, Any] = {}
    """Id of an upload -> its files and the URLs of their parts, which need no credentials."""


class Published(Message):
    """A result stands at its target."""

    kind: Literal["published"] = "published"
    target: dict[str, Any]
    reference: str


class Resolved(Message):
    """The fetcher knows the model: its commit, its facts and the spec with every default filled in."""

    kind: Literal["resolved"] = "resolved"
    revision: str
    spec: dict[str, Any]
    warnings: list[str] = []
    facts: dict[str, Any] = {}

    @cached_property
    def parsed_spec(self) -> CompressionSpec:
        """The spec as a model, read when first asked for; raises ValidationError where this version takes none such."""
        return stored_spec(self.spec)

    @cached_property
    def parsed_facts(self) -> ModelFacts | None:
        """What the fetcher found out about the model; None of one that tells no facts, or those of another version."""
        try:
            return ModelFacts.model_validate_json(canonical(self.facts))
        except ValidationError:
            return None


class Fetched(Message):
    """Model and text lie on this machine."""

    kind: Literal["fetched"] = "fetched"
    model_dir: str
    dropped_keys: list[str] = []
    """Keys of config.json that the compute side does not see."""
    datasets: dict[str, str] = {}
    data_sha256: dict[str, str] = {}
    """Fingerprint of a data set's spec -> sha256 of its text, builtin ones too: a part of the work hash."""


class DeviceFacts(Message):
    """A GPU has answered: its name and memory, as processes on it see them."""

    kind: Literal["device"] = "device"
    name: str
    memory_bytes: int


AnyMessage = Annotated[
    Resolved
    | Fetched
    | PhaseStarted
    | PhaseCompleted
    | Progress
    | Metric
    | Layer
    | Checkpoint
    | Warned
    | Alive
    | Log
    | Done
    | MembersRequested
    | Published
    | DeviceFacts
    | Failed,
    Field(discriminator="kind"),
]
MESSAGES: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


class StoredInStore(StoredCheckpoint):
    """A checkpoint that lies in the store: the supervisor's own message to its rows."""

    key: str
    shared: str | None = None
    """The key under which other jobs find it."""


class Facts(Resolved):
    """The fetcher's `Resolved` with the hash of all that decides the result: ours, once the text is known."""

    work_hash: str
    known: dict[str, dict[str, Any]] = {}
    """Resolved facts of the pinned source and texts, by cache key."""


RecordedMessage = AnyMessage | StoredInStore | Facts
"""What the supervisor writes into rows and events."""
