"""Text as windows of tokens: tokenised once, cut by seed, known by its content hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workers.engine.errors import DatasetError
from workers.engine.numerics import generator
from workers.engine.python_docs import python_docs


@dataclass(frozen=True)
class Text:
    """One text as the model's tokenizer sees it."""

    name: str
    tokens: torch.Tensor
    """The whole text, tokenised once with the tokenizer's defaults; int64."""
    sha256: str
    """Of the text in UTF-8."""

    def require(self, count: int, length: int) -> None:
        """Raise DatasetError unless the text holds `count` windows of `length` tokens."""
        if len(self.tokens) < count * length:
            raise DatasetError(
                f"{self.name} has {len(self.tokens)} tokens; {count} windows of {length} need {count * length}",
                hint="Give more text, or ask for fewer samples or a shorter sequence_length.",
            )

    def windows(self, *, count: int, length: int, seed: int, selection: str, overlapping: bool = False) -> torch.Tensor:
        """Calibration windows (N, T): seeded crops of the stream, or its first windows.

        `overlapping`: take the crops also from a text that is shorter than all of them together.
        """
        if overlapping:
            self.require(1, length)
        else:
            self.require(count, length)
        if selection == "sequential":
            return self.tokens[: count * length].view(count, length)
        last = len(self.tokens) - length
        starts = torch.randint(last + 1, (count,), generator=generator(seed, "calibration"))
        return torch.stack([self.tokens[start : start + length] for start in starts.tolist()])

    def evaluation(self, *, length: int, max_windows: int | None) -> torch.Tensor:
        """Non-overlapping windows (N, T) from the start, remainder dropped."""
        self.require(1, length)
        count = len(self.tokens) // length
        return self.tokens[: count * length].view(count, length)[:max_windows]


class Corpus:
    """All texts of a job; each is tokenised once."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._texts: dict[str, Text] = {}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer."""
        return AutoTokenizer.from_pretrained(self._model_dir, local_files_only=True, trust_remote_code=False)

    @cached_property
    def tokenizer_id(self) -> str:
        """The tokenizer's class and the content hash of its file."""
        files = [self._model_dir / name for name in ("tokenizer.json", "tokenizer.model", "vocab.json")]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()]
        return " ".join([type(self.tokenizer).__name__, *(f"sha256:{digest}" for digest in digests[:1])])

    def read(self, spec: dict[str, Any], *, path: Path | None) -> Text:
        """The text of a data set's spec; `path` is where the fetcher put it, None for text that Python brings along."""
        raw = python_docs(spec["split"]) if path is None and spec["kind"] == "builtin" else _read(spec, path)
        digest = hashlib.sha256(raw.encode()).hexdigest()
        if digest not in self._texts:
            name = spec.get("name") or str(spec["path"]).rsplit("/", 1)[-1]
            # verbose=False: a text longer than the model's window is what we want here.
            ids = self.tokenizer(raw, verbose=False)["input_ids"]
            self._texts[digest] = Text(name, torch.tensor(ids, dtype=torch.int64), digest)
        return self._texts[digest]


def _read(spec: dict[str, Any], path: Path | None) -> str:
    if path is None:
        raise DatasetError(f"the {spec['kind']} data set was not fetched", hint="List its file in `datasets`.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DatasetError("the text is not UTF-8", hint="Convert the text to UTF-8.") from None
