"""A text or JSONL file that a client sent."""

from __future__ import annotations

from typing import Any

from app.integrations.shared.sources import Access, TextSource, Use
from app.integrations.uploads.joining import find, join
from espalier.documents.gather import PlainText, gather
from espalier.errors import DatasetRefused, SourceNotFound
from espalier.recipe.steps.dataset import UploadDataset


class UploadText(UploadDataset, TextSource):
    """A complete upload of the job's project."""

    def fetch(self, access: Access, use: Use) -> PlainText:  # noqa: ARG002 (the upload is the split)
        """Join the parts and keep the text."""
        try:
            upload = find(self.upload_id, access)
        except SourceNotFound as error:
            raise DatasetRefused(error.message, hint=error.hint) from error
        folder = join(self.upload_id, upload, access)
        return gather([folder / file.name for file in upload.files], self.column, access.cache_dir)

    def unchanging(self) -> list[Any]:
        """Return nothing more: an upload never changes."""
        return []
