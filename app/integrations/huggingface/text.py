"""A data set of the Hugging Face Hub, from its files alone: no loading script is ever run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.integrations.huggingface.download import COMMIT, Repo, download, look_up
from app.integrations.shared.cache import used_now
from app.integrations.shared.digests import Sha256, read_note, write_whole
from app.integrations.shared.sources import Access, SourceUnreachable, TextSource, Use
from espalier.documents.gather import MAX_TEXT_BYTES, READING, PlainText, gather
from espalier.documents.text_files import READABLE, is_readable
from espalier.errors import DatasetRefused, SourceGated, SourceNotFound
from espalier.recipe.steps.dataset import KNOWN, HuggingFaceDataset

_NO_DATA: Final = re.compile(r"(^|/)[./]")
"""What a repository keeps for itself, or a tool in it; and names that lead out of it, which Git has not, and another
server than the Hub may list."""
_SPLITS: Final[dict[Use, tuple[str, ...]]] = {
    "train": ("train",),
    "evaluation": ("test", "validation", "valid", "dev"),
}
"""What a spec without a split means, first that exists."""


class _TextNote(BaseModel):
    """What the files of a choice turned out to say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Sha256
    warnings: dict[str, str]


_NOTE: Final = TypeAdapter(_TextNote)


class HuggingFaceText(HuggingFaceDataset, TextSource):
    """A known name (wikitext2, c4) or owner/name; configuration, split and column."""

    def fetch(self, access: Access, use: Use) -> PlainText:
        """Download the split's first files and keep their text; the text of equal files is kept once."""
        repo_id, config = KNOWN.get(self.name, (self.name, None))
        config = self.config or config
        try:
            repo = look_up("dataset", repo_id, self.revision, access)
            names = self._files(repo, config, use)
            place = download(repo, names, access)
        except SourceUnreachable:
            raise
        except (SourceNotFound, SourceGated) as error:
            raise DatasetRefused(error.message, hint=error.hint) from error
        # Hashed: a column may have any name, ../ included.
        choice = hashlib.sha256(json.dumps([READING, config, self._wanted(use), self.column]).encode()).hexdigest()[:32]
        note = place.note(f"text-{choice}")
        known = read_note(note, _NOTE)
        if known is not None:
            path = access.cache_dir / "text" / f"{known.sha256}.txt"
            if path.is_file():
                used_now(path)
                return PlainText(path=path, sha256=known.sha256, warnings=known.warnings)
        text = gather([place.files / name for name in names], self.column, access.cache_dir)
        write_whole(note, _NOTE.dump_json(_TextNote(sha256=text.sha256, warnings=dict(text.warnings))))
        return text

    def unchanging(self) -> list[Any] | None:
        """Return nothing more at a commit, and None at a branch or tag, which moves."""
        return [] if COMMIT.fullmatch(self.revision) else None

    def _wanted(self, use: Use) -> tuple[str, ...]:
        return (self.split,) if self.split else _SPLITS[use]

    def _files(self, repo: Repo, config: str | None, use: Use) -> list[str]:
        """Return the files of one split of one configuration, as many as the byte limit can need."""
        readable = [file for file in repo.files if is_readable(file.name) and not _NO_DATA.search(file.name)]
        if config is not None:
            readable = [file for file in readable if file.name.startswith(f"{config}/")]
        for split in self._wanted(use):
            # c4-train.00000-of-01024.json.gz, train-00000-of-00001.parquet, data/train.jsonl, test/0000.parquet
            word = re.compile(rf"(^|[^a-z]){re.escape(split)}([^a-z]|$)", re.IGNORECASE)
            matches = [file for file in readable if word.search(file.name)]
            folders = {file.name.rpartition("/")[0] for file in matches}
            if len(folders) > 1:
                hint = f"Set `config`: {', '.join(_choices(folders))}."
                raise DatasetRefused(f"{repo.id} has several configurations.", hint=hint)
            if matches:
                chosen, size = [], 0
                for file in sorted(matches, key=lambda file: file.name):
                    if size < MAX_TEXT_BYTES:
                        chosen.append(file.name)
                    size += file.bytes
                return chosen
        tried = " or ".join(self._wanted(use))
        raise DatasetRefused(f"{repo.id} has no readable file of the split {tried}.", hint=READABLE)


def _choices(folders: Collection[str]) -> list[str]:
    """Return the first folders in which some folders differ, ten at most: each is a configuration to choose."""
    common = os.path.commonpath(folders)
    depth = 1 + len(common.split("/")) if common else 1
    return sorted({"/".join(folder.split("/")[:depth]) for folder in folders} - {common})[:10]
