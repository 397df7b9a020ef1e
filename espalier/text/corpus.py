"""Tokenise texts and sample windows of tokens: seeded, cached by content hash."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerBase

from espalier.errors import DatasetError, UnsafeTokenizerError
from espalier.memory.text import PIECE_BYTES
from espalier.model.numerics import generator
from espalier.text import tokenising
from espalier.text.python_docs import python_docs

CROPPED_FROM: Final = 16
"""Times the tokens of a calibration: of a text longer than that (and than one piece) its beginning is cropped."""


@dataclass(frozen=True)
class Text:
    """One text as the model's tokenizer sees it."""

    name: str
    tokens: torch.Tensor
    """The text, tokenised once with the tokenizer's defaults; int32, where windows are int64."""
    sha256: str
    """Of the text's bytes."""
    pieces: int | None = None
    """How many pieces were read of a text that is longer than one."""

    def protocol(self) -> dict[str, Any]:
        """Return the report's entries about the text."""
        entries: dict[str, Any] = {"text_sha256": self.sha256, "text_tokens": len(self.tokens)}
        if self.pieces is not None:
            entries["text_pieces"] = f"{self.pieces} of at most {PIECE_BYTES >> 20} MiB, cut at line ends"
        return entries

    def require(self, count: int, length: int) -> None:
        """Raise DatasetError unless the text holds `count` windows of `length` tokens."""
        if len(self.tokens) < count * length:
            raise DatasetError(
                f"{self.name} has {len(self.tokens)} tokens; {count} windows of {length} need {count * length}",
                hint="Give more text, or ask for fewer samples or a shorter sequence_length.",
            )

    def windows(self, *, count: int, length: int, seed: int, selection: str, overlapping: bool = False) -> torch.Tensor:
        """Return calibration windows (N, T): seeded crops of the stream, or its first windows.

        `overlapping`: take the crops also from a text that is shorter than all of them together.
        """
        if overlapping:
            self.require(1, length)
        else:
            self.require(count, length)
        if selection == "sequential":
            return self.tokens[: count * length].view(count, length).long()
        last = len(self.tokens) - length
        starts = torch.randint(last + 1, (count,), generator=generator(seed, "calibration"))
        return torch.stack([self.tokens[start : start + length] for start in starts.tolist()]).long()

    def evaluation(self, *, length: int, max_windows: int | None) -> torch.Tensor:
        """Return non-overlapping windows (N, T) from the start, the remainder dropped."""
        self.require(1, length)
        count = len(self.tokens) // length
        return self.tokens[: count * length].view(count, length)[:max_windows].long()


class Corpus:
    """All texts of a job; each is tokenised once."""

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._texts: dict[tuple[str, int | None], Text] = {}
        self._tokenizer_class = ""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer, in this process."""
        return tokenising.load(self._model_dir)

    @cached_property
    def tokenizer_id(self) -> str:
        """The tokenizer's class and the content hash of its file."""
        files = [self._model_dir / name for name in ("tokenizer.json", "tokenizer.model", "vocab.json")]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()]
        return " ".join([self._tokenizer_class, *(f"sha256:{digest}" for digest in digests[:1])])

    def read(self, spec: dict[str, Any], *, path: Path | None, enough: int | None = None) -> Text:
        """Return the tokenised text of a data set, of a long one as many pieces as hold `enough` tokens; None: all.

        `path` is where the fetcher put it, None for text that Python brings along.
        """
        text = _bytes(spec) if path is None else path
        with io.BytesIO(text) if isinstance(text, bytes) else text.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
        key = digest, enough if size > PIECE_BYTES else None
        if key not in self._texts:
            name = spec.get("name") or spec.get("upload_id") or str(spec["path"]).rsplit("/", 1)[-1]
            tokens = tokenising.tokenise(self._model_dir, text, enough=enough)
            self._require_known(tokens.ids)
            self._tokenizer_class = tokens.tokenizer
            self._texts[key] = Text(name, tokens.ids, digest, tokens.pieces if size > PIECE_BYTES else None)
        return self._texts[key]

    def _require_known(self, ids: torch.Tensor) -> None:
        """Refuse a tokenizer that knows more tokens than the model has embeddings, where it has used one."""
        config = json.loads((self._model_dir / "config.json").read_bytes())
        size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        if size and len(ids) and int(ids.max()) >= size:
            raise UnsafeTokenizerError(
                f"the tokenizer makes the token {int(ids.max())}, and the model has {size} embeddings",
                hint="The tokenizer's files and config.json do not belong together.",
                module="tokenizer.json",
            )


def _bytes(spec: dict[str, Any]) -> bytes:
    if spec["kind"] != "builtin":
        raise DatasetError(f"the {spec['kind']} data set was not fetched", hint="List its file in `datasets`.")
    return python_docs(spec["split"]).encode()
