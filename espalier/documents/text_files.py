"""Recognise text files by name and first bytes, and explain what is wrong with them."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final, Literal

from espalier.errors import DatasetRefused

Kind = Literal["text", "json", "parquet"]
JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".jsonlines", ".json")
SUFFIXES: Final = (*JSON_SUFFIXES, ".txt", ".parquet")
"""In any case, and with .gz behind all but the last; files of other names are read as plain text where no rule speaks
against it."""
READABLE: Final = "Readable are *.txt, *.jsonl, *.ndjson and *.json, each also with .gz, and *.parquet."
HEAD_BYTES: Final = 2**16
_AS_LINES: Final = "Write it as JSON lines, like pandas.read_csv(...).to_json(..., orient='records', lines=True)."
_UNPACK: Final = "Unpack it, or compress it with gzip."
_OTHERS: Final = {
    **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xls", ".ods", ".arrow", ".feather", ".orc", ".avro"), _AS_LINES),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".zst", ".zstd", ".bz2", ".xz", ".7z", ".rar", ".lz4", ".br"), _UNPACK),
    **dict.fromkeys(
        (
            ".pdf",
            ".doc",
            ".docx",
            ".odt",
            ".epub",
            ".rtf",
            ".db",
            ".sqlite",
            ".pkl",
            ".pickle",
            ".npy",
            ".npz",
            ".pt",
            ".bin",
            ".h5",
            ".tfrecord",
            ".safetensors",
            ".msgpack",
            ".yaml",
            ".yml",
            ".xml",
            ".html",
            ".htm",
        ),
        "Write its text into a *.txt or *.jsonl file.",
    ),
}
_MAGIC: Final = (
    (b"\x1f\x8b", "gzip", "Give it a name that ends in .gz."),
    (b"PAR1", "parquet", "Name it *.parquet."),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd", _UNPACK),
    (b"BZh", "bzip2", _UNPACK),
    (b"\xfd7zXZ", "xz", _UNPACK),
    (b"ARROW1", "an Arrow file", _AS_LINES),
    (b"%PDF", "a PDF", "Write its text out."),
    (b"SQLite format", "a database", _AS_LINES),
    (b"\x89HDF", "an HDF5 file", _AS_LINES),
    (b"version https://git-lfs", "a Git LFS pointer", "Run `git lfs pull`."),
)
AS_ROWS: Final = "Write one object in each line, or one list of objects, like pandas' to_json(..., orient='records')."
IN_ROWS: Final = f"{AS_ROWS[0].lower()}{AS_ROWS[1:]}"
_STRINGS: Final = "Name a column of strings"
_NO_TEXT: Final = {
    **dict.fromkeys(("list of objects", "message"), f"{_STRINGS}: chat messages become text with their chat template."),
    **dict.fromkeys(("list", "object"), f"{_STRINGS}. If it is a whole table: {IN_ROWS}"),
}
"""What is there in the place of a text -> what to do."""
_TABLES: Final = (re.compile(r"(\d+ )+"), re.compile(r"columns data (index )?|data schema "))
"""Names of the columns, sorted, of one object that is a whole table."""
_ROW: Final = re.compile(r"(?:[\s,\x00\x1e\ufeff]|null\b)*+(.)", re.DOTALL)
"""The beginning of the next row that is there."""
_DECODER: Final = json.JSONDecoder(strict=False, parse_int=float)
_ENOUGH: Final = 2
"""Rows by which JSON is known under another name."""
_UNWRITABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters of a column's name that no answer can hold, or that would garble it."""


@dataclass(frozen=True)
class TextForm:
    """How a file is read."""

    kind: Kind
    gzipped: bool = False


@dataclass(frozen=True)
class Inspection:
    """Columns seen in the first bytes of a file."""

    columns: tuple[str, ...] = ()
    """Of its first rows; none where it has no rows, or the first row is longer than the bytes at hand."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Columns that hold something other than text, and its kind."""


def form_of(name: str) -> TextForm:
    """Return the format of a file by its name; raises DatasetRefused, with a way out, for what is not text."""
    path = PurePath(name.lower())
    gzipped = path.suffix == ".gz"
    suffix = path.with_suffix("").suffix if gzipped else path.suffix
    if gzipped and suffix in {".parquet", ".pq"}:
        raise DatasetRefused(f"{name} is packed twice.", hint="Unpack it: parquet is compressed in itself.")
    if suffix in _OTHERS:
        raise DatasetRefused(f"{name} is no text: *{suffix} files are not read.", hint=f"{_OTHERS[suffix]} {READABLE}")
    if suffix in {".parquet", ".pq"}:
        return TextForm("parquet")
    return TextForm("json" if suffix in JSON_SUFFIXES else "text", gzipped)


def is_readable(name: str) -> bool:
    """Tell whether a file's name says that it holds text."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES) and not name.lower().endswith(".parquet.gz")


def encoding_of(head: bytes, name: str) -> str:
    """Return the encoding of a file by its first bytes, marks of byte order included; raises DatasetRefused."""
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            if what == "gzip" and name.lower().endswith(".gz"):
                raise DatasetRefused(f"{name} is packed twice.", hint="Unpack it once.")
            raise DatasetRefused(f"{name} is {what}, and its name says something else.", hint=hint)
    return json.detect_encoding(head) if len(head) >= 2 else "utf-8"


def not_text(name: str, encoding: str, error: UnicodeDecodeError, *, before: int) -> DatasetRefused:
    """Return the refusal of bytes that do not decode; `before`: the number of bytes before those at hand."""
    label = encoding.upper().removesuffix("-SIG")
    at = f"byte 0x{error.object[error.start]:02x} at {before + error.start:,}"
    hint = "Convert it to UTF-8, like `iconv -f WINDOWS-1252 -t UTF-8`, naming the encoding that it has."
    return DatasetRefused(f"{name} is not {label} text ({at}): perhaps Windows-1252 or Latin-1.", hint=hint)


def require_plain(head: str, name: str) -> None:
    """Raise DatasetRefused where plain text begins with rows of JSON: braces and keys are no text to calibrate on."""
    rows, at = 0, len(head) - len(head.lstrip("\ufeff \t\r\n["))
    while rows < _ENOUGH and (match := _ROW.match(head, at)) and match[1] == "{":
        try:
            row, at = _DECODER.raw_decode(head, match.start(1))
        except (ValueError, RecursionError):
            return
        if not row:
            return
        rows += 1
    if rows == _ENOUGH:
        raise DatasetRefused(
            f"{name} holds rows of JSON.", hint="Name it *.jsonl or *.json, and the column that holds the text."
        )


def inspect_head(name: str, head: bytes, *, whole: bool) -> Inspection:
    """Check the first bytes of a file against its name; raises DatasetRefused.

    `whole`: there are no more bytes.
    """
    form = form_of(name)
    if form.kind == "parquet":
        if not head.startswith(b"PAR1"):
            raise DatasetRefused(f"{name} is not a parquet file.", hint=READABLE)
        return Inspection()
    if form.gzipped:
        try:
            head, whole = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES), False
        except zlib.error:
            raise DatasetRefused(f"{name} is not gzip.", hint="Compress it again, or leave .gz off its name.") from None
    encoding = encoding_of(head, name)
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError as error:
        if whole or error.end < len(head) - 4:
            raise not_text(name, encoding, error, before=0) from None
        text = head[: error.start].decode(encoding)
    if form.kind == "text":
        require_plain(text, name)
        return Inspection()
    return _rows(text.lstrip("\ufeff \t\r\n[\x00\x1e"), name)


def _rows(text: str, name: str) -> Inspection:
    at = 0
    columns: dict[str, str | None] | None = None
    while match := _ROW.match(text, at):
        if match[1] != "{":
            if columns is not None:
                break  # the reader raises
            raise DatasetRefused(f"{name} has no JSON objects.", hint=AS_ROWS)
        try:
            row, at = _DECODER.raw_decode(text, match.start(1))
        except (ValueError, RecursionError):  # cut, perhaps: the reader raises
            break
        columns = columns or {}
        for key, value in row.items():
            columns[key] = columns.get(key) or kind_of(value)
    kinds = columns or {}
    return Inspection(tuple(kinds), {key: kind for key, kind in kinds.items() if kind is not None})


def kind_of(value: object) -> str | None:
    """Return the kind of a value that is no text; None for a text or a missing value (null, NaN)."""
    match value:
        case None | str():
            return None
        case bool():
            return "truth value"
        case float() | int():
            return None if math.isnan(value) else "number"
        case list():
            return "list of objects" if value and isinstance(value[0], dict) else "list"
        case _:
            return "message" if isinstance(value, dict) and "role" in value else "object"


def not_a_text(where: str, column: str, kind: str) -> DatasetRefused:
    """Return the refusal of a column that holds something other than text."""
    article = "an" if kind[0] in "aeio" else "a"
    hint = _NO_TEXT.get(kind, f"{_STRINGS}.")
    return DatasetRefused(f"{where} has no text in `{column}`, it has {article} {kind}.", hint=hint)


def no_column(name: str, column: str, columns: tuple[str, ...]) -> DatasetRefused:
    """Return the refusal of a column that does not exist."""
    hint = f"Name one of its columns: {listed(columns)}." if columns else "It has no columns."
    names = "".join(f"{each} " for each in sorted(columns))
    if any(table.fullmatch(names) for table in _TABLES):
        hint += f" If it is a whole table: {IN_ROWS}"
    return DatasetRefused(f"{name} has no text in `{column}`.", hint=hint)


def listed(columns: tuple[str, ...]) -> str:
    """Return names of columns, which are a stranger's, as an answer can hold them."""
    return _UNWRITABLE.sub("\ufffd", ", ".join(columns[:20])[:400])
