"""Documents in files of the usual formats, joined to one plain text in the cache."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from app.errors import DatasetRefused
from workers.sources.base import Text

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".txt", ".txt.gz")
MAX_TEXT_BYTES = 64 * 2**20
"""What is kept of a data set: some 16 million tokens, more than calibration and retraining read."""
SEPARATOR = "\n\n"


def read(files: Iterable[Path], column: str) -> Iterator[str]:
    """Yield the documents of files, one after the other."""
    for file in files:
        try:
            if file.name.endswith(".parquet"):
                yield from _parquet(file, column)
            elif file.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
                yield from _json(file, column)
            else:
                with _open(file) as stream:
                    # Characters, so more than enough: what a few compressed bytes unfold to has no bound of its own.
                    yield stream.read(MAX_TEXT_BYTES + 1)
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DatasetRefused(f"{file.name} is not UTF-8 text: {type(error).__name__}.") from None


def keep(documents: Iterable[str], cache_dir: Path) -> Text:
    """Join documents by two newlines into a file of the cache that is named by its content."""
    folder = cache_dir / "text"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    digest, size, warning = hashlib.sha256(), 0, None
    try:
        with temporary.open("wb") as target:
            for index, document in enumerate(documents):
                data = ((SEPARATOR if index else "") + document).encode()
                if size + len(data) > MAX_TEXT_BYTES:
                    data = data[: MAX_TEXT_BYTES - size].decode(errors="ignore").encode() if index == 0 else b""
                    warning = f"only the first {(size + len(data)) >> 20} MiB of the text are used"
                target.write(data)
                digest.update(data)
                size += len(data)
                if warning:
                    break
        if not size:
            raise DatasetRefused("The data set has no text.", hint="Check split and column.")
        path = folder / f"{digest.hexdigest()}.txt"
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Text(path=path, sha256=digest.hexdigest(), warning=warning)


def _open(file: Path) -> IO[str]:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8", newline="")


def _json(file: Path, column: str) -> Iterator[str]:
    with _open(file) as stream:
        if not file.name.endswith((".jsonl", ".jsonl.gz")) and _is_array(stream):
            rows = _parse(stream.read(), file, 1)
            assert isinstance(rows, list)
            yield from (_field(row, column, file, index + 1) for index, row in enumerate(rows))
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _field(_parse(line, file, number), column, file, number)


def _is_array(stream: IO[str]) -> bool:
    start = stream.read(64).lstrip()
    stream.seek(0)
    return start.startswith("[")


def _parse(text: str, file: Path, line: int) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DatasetRefused(f"Line {line} of {file.name} is not JSON.") from None


def _field(row: object, column: str, file: Path, line: int) -> str:
    value = row.get(column) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise DatasetRefused(
            f"Row {line} of {file.name} has no text in `{column}`.", hint="Name the column that holds the text."
        )
    return value


def _parquet(file: Path, column: str) -> Iterator[str]:
    import pyarrow  # noqa: PLC0415 (slow to load, and most jobs read no parquet)
    import pyarrow.parquet  # noqa: PLC0415

    try:
        table = pyarrow.parquet.ParquetFile(file)
        if column not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names[:20])
            raise DatasetRefused(f"{file.name} has no column `{column}`.", hint=f"Its columns: {names}.")
        for batch in table.iter_batches(columns=[column], batch_size=4096):
            yield from ("" if value is None else str(value) for value in batch.column(0).to_pylist())
    except pyarrow.ArrowException as error:
        raise DatasetRefused(f"{file.name} is not a readable parquet file: {type(error).__name__}.") from None
