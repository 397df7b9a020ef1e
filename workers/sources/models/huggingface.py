"""A model of the Hugging Face Hub, pinned to a commit; safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from app.errors import SourceNotFound, UnsafeSource
from workers.sources.base import PICKLES, Access, ModelSource, belongs_to_model, is_weights
from workers.sources.hub import Repo, download, look_up

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_CONVERT = "Convert the weights to safetensors (huggingface.co/spaces/safetensors/convert) and name that revision."

_INDEX_HINT = "Save the model again with save_pretrained, which writes the index."


class HuggingFaceModel(ModelSource):
    """A repository at a branch, tag or commit."""

    kind: Literal["huggingface"] = "huggingface"
    repo: str
    revision: str = "main"

    def resolve(self, access: Access) -> str:
        """Ask the Hub for the commit."""
        return look_up("model", self.repo, self.revision, access).commit

    def fetch(self, revision: str, access: Access) -> Path:
        """Download the small files, then the weights that stock transformers would read."""
        repo = look_up("model", self.repo, revision, access)
        names = {file.name for file in repo.files}
        if "config.json" not in names:
            raise SourceNotFound(f"{self.repo} has no config.json.", hint="A model is a Hugging Face directory.")
        if not {INDEX, SINGLE} & names:
            if any(PICKLES.fullmatch(name) for name in names):
                raise UnsafeSource(f"The weights of {self.repo} are pickles, which can run code.", hint=_CONVERT)
            raise SourceNotFound(f"{self.repo} has no weights in safetensors.", hint=_CONVERT)
        small = [name for name in names if belongs_to_model(name) and not is_weights(name)]
        if SINGLE in names:
            small = [name for name in small if name != INDEX]
        folder = download(repo, small, access)
        return download(repo, [*small, *self._weights(repo, folder)], access)

    def _weights(self, repo: Repo, folder: Path) -> list[str]:
        if repo.file(SINGLE):
            return [SINGLE]
        try:
            shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UnsafeSource(f"{INDEX} of {self.repo} is not usable.", hint=_INDEX_HINT, module=INDEX) from None
        if not all(isinstance(name, str) and is_weights(name) for name in shards):
            raise UnsafeSource(f"{INDEX} names what is no plain *.safetensors file.", hint=_INDEX_HINT, module=INDEX)
        missing = [name for name in shards if repo.file(name) is None]
        if missing:
            raise SourceNotFound(f"{self.repo} lacks {missing[0]}.", hint=_INDEX_HINT, module=missing[0])
        return shards
