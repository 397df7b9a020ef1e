"""A model of the Hugging Face Hub, pinned to a commit; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from app.errors import OwnOutput
from workers.sources.base import Access, ModelSource
from workers.sources.checkpoint import small_files, weight_names
from workers.sources.hub import download, look_up

OUTPUT_TAG = "espalier"
"""Stands in the card of every result (workers.phases.card)."""
_CONVERT = "Convert the weights to safetensors (huggingface.co/spaces/safetensors/convert) and name that revision."


class HuggingFaceModel(ModelSource):
    """A repository at a branch, tag or commit."""

    kind: Literal["huggingface"] = "huggingface"
    repo: str
    revision: str = "main"

    def resolve(self, access: Access) -> str:
        """Ask the Hub for the commit; what a rule started must not be an output of ours, as its card would tell."""
        repo = look_up("model", self.repo, self.revision, access)
        if access.refuse_outputs and OUTPUT_TAG in repo.tags:
            raise OwnOutput(f"{self.repo} is an output of Espalier: its card has the tag `{OUTPUT_TAG}`.")
        return repo.commit

    def fetch(self, revision: str, access: Access) -> Path:
        """Download the small files, then the weights that stock transformers would read."""
        repo = look_up("model", self.repo, revision, access)
        names = {file.name for file in repo.files}
        small = small_files(names, self.repo, convert=_CONVERT)
        folder = download(repo, small, access)
        return download(repo, [*small, *weight_names(names, folder, self.repo)], access)
