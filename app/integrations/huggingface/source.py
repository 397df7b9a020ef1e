"""A model of the Hugging Face Hub, pinned to a commit; safetensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from app.integrations.huggingface.download import COMMIT, download, look_up
from app.integrations.huggingface.inspection import inspect_repository
from app.integrations.huggingface.names import RepoId
from app.integrations.shared.checkpoint import small_files, weight_names
from app.integrations.shared.sources import Access, ModelSource, Reader, SourceInspection
from app.settings import Settings
from espalier.export.outputs import refuse_tagged

_CONVERT = "Convert the weights to safetensors (huggingface.co/spaces/safetensors/convert) and name that revision."


class HuggingFaceSource(ModelSource):
    """A repository of the Hugging Face Hub at a branch, tag or commit."""

    title: ClassVar[str] = "a repository of the Hugging Face Hub"

    kind: Literal["huggingface"] = "huggingface"
    repo: RepoId = Field(description="owner/name")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch or commit.")

    @property
    def model_name(self) -> str:
        """The repository."""
        return self.repo

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

    def at(self, revision: str) -> Self:
        """Return the same repository at a commit."""
        return self.model_copy(update={"revision": revision})

    def unchanging(self) -> list[Any] | None:
        """Return nothing more at a commit, and None at a branch or tag, which moves."""
        return [] if COMMIT.fullmatch(self.revision) else None

    def inspect(self, settings: Settings, reader: Reader, *, owner: str) -> SourceInspection:
        """Ask the Hub without a token; raises SourceRefused where no job could work on what is there."""
        return inspect_repository(settings.hf_endpoint, self.repo, self.revision, reader, owner=owner)
