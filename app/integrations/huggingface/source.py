"""A model of the Hugging Face Hub, pinned to a commit; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from app.integrations.huggingface.download import download, look_up
from app.integrations.shared.checkpoint import small_files, weight_names
from app.integrations.shared.sources import Access, ModelSource
from espalier.export.outputs import refuse_tagged

_CONVERT = "Convert the weights to safetensors (huggingface.co/spaces/safetensors/convert) and name that revision."


class HuggingFaceModel(ModelSource):
    """A repository at a branch, tag or commit."""

    kind: Literal["huggingface"] = "huggingface"
    repo: str
    revision: str = "main"

    def resolve(self, access: Access) -> str:
        """Ask the Hub for the commit, and whether its card calls it an output of ours."""
        repo = look_up("model", self.repo, self.revision, access)
        if access.refuse_outputs:
            refuse_tagged(self.repo, repo.tags)
        return repo.commit

    def fetch(self, revision: str, access: Access) -> Path:
        """Download the small files, then the weights that stock transformers would read."""
        repo = look_up("model", self.repo, revision, access)
        names = {file.name: file.bytes for file in repo.files}
        small = small_files(names, self.repo, convert=_CONVERT)
        folder = download(repo, small, access).files
        return download(repo, [*small, *weight_names(names, folder, self.repo)], access).files
