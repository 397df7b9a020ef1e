"""The interface of targets for results, the request to a publisher, and the tags of our own publications."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from app.integrations.shared.hooks import RegistryEvent
from app.integrations.shared.sources import ModelSource
from app.settings import Settings
from espalier.errors import Problem
from espalier.messages import Message
from espalier.recipe.steps.publish import PublishTarget


class PublicFile(Message):
    """One file to be published, and where it is read."""

    path: str
    sha256: str
    url: str


class ResultTarget(PublishTarget, ABC):
    """A place that takes results, and how; a subclass stands in the module `target` of a system's folder."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Name of the model in the system; empty where the source decides."""

    @abstractmethod
    def publish(self, request: PublishRequest, folder: Path) -> str:
        """Send the files in a folder and return a reference to what stands there; raises TargetRefused.

        Sent again, an equal result is found by its manifest and not made twice.
        """

    def problems(self, settings: Settings, source: ModelSource) -> Iterator[Problem]:  # noqa: ARG002
        """Yield why results of a source cannot go here, with pointers into the target."""
        yield from ()

    def beside(self, source: ModelSource) -> Self:  # noqa: ARG002 (for targets that a source names)
        """Return the target with what it leaves to the source of the job; raises InvalidRequest."""
        return self

    @classmethod
    def made(cls, event: RegistryEvent) -> Iterator[dict[str, str]]:  # noqa: ARG003 (where a place holds one model)
        """Yield what a target would say whose results take the place of the model that an event is about."""
        yield from ()


class PublishRequest(Message):
    """What the publisher child reads: one result, one target, the credentials for it."""

    job_id: str
    target: ResultTarget
    files: list[PublicFile]
    workspace: str
    credentials: dict[str, str]
    """The system's address and the project's login, in the words of its `Login`."""
    lineage: dict[str, str] = {}
    """What became what: job, source, source_version, source_revision, spec_hash, work_hash."""


MANIFEST: Final = "manifest.json"
TAG: Final = "espalier"
"""Begins every commit message and every tag: it distinguishes our own publications."""


class TargetRefused(Exception):
    """The target did not take the result."""

    def __init__(self, message: str, hint: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.message, self.hint, self.retryable = message, hint, retryable
