"""Join the documents of files into one plain text in the cache; all of it is bounded in bytes."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Final

from espalier.documents import json_rows
from espalier.documents.text_files import (
    HEAD_BYTES,
    TextForm,
    encoding_of,
    form_of,
    not_text,
    require_plain,
)
from espalier.errors import DatasetRefused

MAX_TEXT_BYTES = 64 * 2**20
"""What is kept of a data set: some 16 million tokens, more than calibration and retraining read."""
MAX_READ_BYTES = 2 * 2**30
"""What is read for that, unpacked: rows are more than their text, and a packed file may hold nothing without end."""
EMPTY_ROW_BYTES: Final = 256
"""What a row without text counts as: a few bytes of parquet may hold millions, and each takes its time."""
READING: Final = 2
"""Raised whenever equal files would give other text: what was kept before is read again."""
CHUNK_BYTES: Final = 2**20
SEPARATOR = "\n\n"
_LONE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PlainText:
    """A plain UTF-8 file, or text that the compute side has itself (no path), and the sha256 of what it says."""

    path: Path | None
    sha256: str
    warnings: Mapping[str, str] = field(default_factory=dict)
    """By code."""


@dataclass
class Notes:
    """What a user should know of the text that was kept."""

    without_text: int = 0
    half_characters: int = 0
    zeros: int = 0
    unread: bool = False

    def warnings(self) -> dict[str, str]:
        """Return the warnings, by code."""
        texts = {
            "rows-skipped": self.without_text and f"{self.without_text} rows have no text (null) and are left out",
            "text-repaired": self.half_characters
            and f"{self.half_characters} halves of characters (lone surrogates) were replaced by U+FFFD",
            "zeros-left-out": self.zeros and f"{self.zeros} NUL characters are left out",
            "text-unread": self.unread and f"only the first {MAX_READ_BYTES >> 30} GiB of the data set were looked at",
        }
        return {code: text for code, text in texts.items() if text}


Document = str | Iterator[str]
"""Whole, or in pieces that follow one another."""


def gather(files: Iterable[Path], column: str, cache_dir: Path) -> PlainText:
    """Read files and keep their text in the cache; raises DatasetRefused."""
    notes = Notes()
    try:
        return keep(read(files, column, notes), cache_dir, notes)
    except MemoryError:
        hint = "Split its rows or row groups, or ask the operator for more (ESPALIER_FETCH_MEMORY_BYTES)."
        raise DatasetRefused("The data set takes more memory to read than the fetcher has.", hint=hint) from None


def read(files: Iterable[Path], column: str, notes: Notes) -> Iterator[Document]:
    """Yield the documents of files, one after the other."""
    budget = _Budget(notes)
    for file in files:
        form = form_of(file.name)
        if form.kind == "parquet":
            from espalier.documents import parquet_rows  # noqa: PLC0415 (slow to load, and most jobs read none)

            yield from _counted(parquet_rows.texts(file, column), notes, budget)
            continue
        with _open(file, form) as stream:
            chunks = _characters(stream, file.name, budget)
            if form.kind == "json":
                rows = json_rows.texts(chunks, column, file.name, given_up=lambda: notes.unread)
                yield from _counted(rows, notes, budget)
            else:
                yield _plain(chunks, file.name)


def keep(documents: Iterable[Document], cache_dir: Path, notes: Notes) -> PlainText:
    """Join documents by two newlines into a file of the cache that is named by its content."""
    folder = cache_dir / "text"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    digest, size, cut = hashlib.sha256(), 0, False
    try:
        with temporary.open("wb") as target:
            for index, document in enumerate(documents):
                start, before = size, digest.copy()
                pieces = iter((document,)) if isinstance(document, str) else document
                for piece in chain((SEPARATOR,) if index else (), pieces):
                    data = _encoded(piece, notes)
                    cut = size + len(data) > MAX_TEXT_BYTES
                    if cut:
                        data = data[: MAX_TEXT_BYTES - size].decode(errors="ignore").encode()
                    target.write(data)
                    digest.update(data)
                    size += len(data)
                    if cut:
                        break
                if cut:
                    if index:  # the document that does not fit goes as a whole
                        target.truncate(start)
                        size, digest = start, before
                    break
        if not size:
            raise DatasetRefused("The data set has no text.", hint="Check split and column.")
        path = folder / f"{digest.hexdigest()}.txt"
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    warnings = {"text-cut": f"only the first {size >> 20} MiB of the text are used"} if cut else {}
    return PlainText(path=path, sha256=digest.hexdigest(), warnings=warnings | notes.warnings())


def _counted(texts: Iterator[str | None], notes: Notes, budget: _Budget) -> Iterator[str]:
    for text in texts:
        if text is not None:
            yield text
            continue
        notes.without_text += 1
        if not budget.take(EMPTY_ROW_BYTES):
            return


def _encoded(text: str, notes: Notes) -> bytes:
    if "\x00" in text:
        notes.zeros += text.count("\x00")
        text = text.replace("\x00", "")
    try:
        return text.encode()
    except UnicodeEncodeError:
        text, count = _LONE.subn("\ufffd", text)
        notes.half_characters += count
        return text.encode()


class _Budget:
    """How much may still be read."""

    def __init__(self, notes: Notes) -> None:
        self._left, self._notes = MAX_READ_BYTES, notes

    def take(self, size: int) -> bool:
        self._left -= size
        self._notes.unread |= self._left < 0
        return self._left >= 0


def _open(file: Path, form: TextForm) -> IO[bytes]:
    return gzip.open(file, "rb") if form.gzipped else file.open("rb")  # type: ignore[return-value]


def _characters(stream: IO[bytes], name: str, budget: _Budget) -> Iterator[str]:
    """Decode a stream; a character that is cut off at its end is left out."""
    data, before = _bytes(stream, HEAD_BYTES, name), 0
    encoding = encoding_of(data, name)
    decoder = codecs.getincrementaldecoder(encoding)()
    while data and budget.take(len(data)):
        try:
            yield decoder.decode(data)
        except UnicodeDecodeError as error:
            raise not_text(name, encoding, error, before=before) from None
        before += len(data)
        data = _bytes(stream, CHUNK_BYTES, name)


def _bytes(stream: IO[bytes], size: int, name: str) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetRefused(f"{name} is damaged: {type(error).__name__}.", hint="Pack it again.") from None


def _plain(chunks: Iterator[str], name: str) -> Iterator[str]:
    for index, chunk in enumerate(chunks):
        if index == 0:
            require_plain(chunk, name)
        yield chunk
