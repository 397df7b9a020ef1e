"""What every target shares: the refusal, and the marks of our own publications."""

from __future__ import annotations

from typing import Final

from espalier.messages import Message
from espalier.recipe.publish import Target


class PublicFile(Message):
    """One file to be published, and where it is read."""

    path: str
    sha256: str
    url: str


class PublishRequest(Message):
    """What the publisher child reads: one result, one target, the credentials for it."""

    job_id: str
    target: Target
    files: list[PublicFile]
    workspace: str
    credentials: dict[str, str]
    """For MLflow also the server's `tracking_uri`."""
    lineage: dict[str, str] = {}
    """What became what: job, source, source_version, source_revision, spec_hash, work_hash."""
    hf_endpoint: str | None = None
    s3_endpoint_url: str | None = None


MANIFEST: Final = "manifest.json"
TAG: Final = "espalier"
"""Begins every commit message and every tag: our own publications are told from others by it."""


class Refused(Exception):
    """The target did not take the result."""

    def __init__(self, message: str, hint: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.message, self.hint, self.retryable = message, hint, retryable
