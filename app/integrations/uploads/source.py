"""A model that a client sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from app.integrations.shared.sources import Access, AtHand, ModelSource
from app.integrations.uploads.joining import absent, find, join
from espalier.errors import Problem
from espalier.probe import ModelFacts
from espalier.recipe.base import canonical
from espalier.recipe.steps.dataset import UploadId


class UploadSource(ModelSource):
    """A complete upload of a model, made with /v1/uploads."""

    title: ClassVar[str] = "a model that was uploaded"

    kind: Literal["upload"] = "upload"
    upload_id: UploadId

    @property
    def model_name(self) -> str:
        """The upload's id."""
        return self.upload_id

    def resolve(self, access: Access) -> str:
        """Return the hash of the content."""
        return find(self.upload_id, access).revision

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (an upload never changes)
        """Join the parts."""
        return join(self.upload_id, find(self.upload_id, access), access)

    def unchanging(self) -> list[Any]:
        """Return nothing more: an upload never changes."""
        return []

    def problems(self, at_hand: AtHand) -> Iterator[Problem]:
        """Refuse an upload that is not there, or no model."""
        if at_hand.find_upload(self.upload_id, "model") is None:
            yield absent("/upload_id", "model")

    def facts(self, at_hand: AtHand) -> ModelFacts:
        """Return what was probed when the upload was complete."""
        upload = at_hand.find_upload(self.upload_id, "model")
        assert upload is not None
        return ModelFacts.model_validate_json(canonical(upload.facts))
