"""A model that a client sent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from app.integrations.shared.sources import Access, ModelSource
from app.integrations.uploads.joining import find, join


class UploadModel(ModelSource):
    """A complete upload of the job's project."""

    kind: Literal["upload"] = "upload"
    upload_id: str

    def resolve(self, access: Access) -> str:
        """Name the content."""
        return find(self.upload_id, access).revision

    def fetch(self, revision: str, access: Access) -> Path:  # noqa: ARG002 (an upload never changes)
        """Join the parts."""
        return join(self.upload_id, find(self.upload_id, access), access)
