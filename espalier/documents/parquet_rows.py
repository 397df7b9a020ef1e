"""Read one string column of a parquet file, a few rows at a time, since a few bytes may expand to a gigabyte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from espalier.documents.json_rows import MAX_ROW
from espalier.documents.text_files import no_column, not_a_text
from espalier.errors import DatasetRefused

ROWS: Final = 32
"""Read at once."""
MAX_FOOTER: Final = 2**24
"""Bound of the footer, which holds names, types and offsets of columns; lengths and lists in it have the same bound."""


def texts(file: Path, column: str) -> Iterator[str | None]:
    """Yield the text of every row; None of a row that has none."""
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # one that reserves ahead would meet the limit early
    try:
        _require_small_footer(file)
        # As a dictionary: rows of one value are one value, until they are asked for.
        limits: dict[str, Any] = {"thrift_string_size_limit": MAX_FOOTER, "thrift_container_size_limit": 2**20}
        schema = pyarrow.parquet.ParquetFile(file, **limits).schema_arrow
        _require_strings(schema, file.name, column)
        table = pyarrow.parquet.ParquetFile(file, read_dictionary=[column], buffer_size=2**20, **limits)
        for batch in table.iter_batches(columns=[column], batch_size=ROWS, use_threads=False):
            for value in batch.column(0):
                yield _text(value.as_py(), file.name)
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetRefused(
            f"{file.name} is not a readable parquet file: {type(error).__name__}.",
            hint="It may be damaged, or not of UTF-8 text. Write it again.",
        ) from None


def _text(value: object, name: str) -> str | None:
    assert value is None or isinstance(value, str)
    if value is not None and len(value) > MAX_ROW:
        raise DatasetRefused(
            f"A row of {name} is longer than {MAX_ROW >> 20} Mi characters.",
            hint="Split its document into several rows.",
        )
    return value


def _require_small_footer(file: Path) -> None:
    whole = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, whole - 8))
        size, magic = int.from_bytes(stream.read(4), "little"), stream.read(4)
    if magic == b"PARE":
        raise DatasetRefused(f"{file.name} is encrypted.", hint="Write it without a key.")
    if magic != b"PAR1" or whole < 12:
        raise DatasetRefused(f"{file.name} is not a whole parquet file.", hint="Its end is missing: copy it again.")
    if size > whole - 12:
        raise DatasetRefused(f"{file.name} is damaged: its end lies before its beginning.", hint="Write it again.")
    if size > MAX_FOOTER:
        raise DatasetRefused(f"{file.name} describes its columns in {size} bytes.", hint="Write fewer columns.")


def _require_strings(schema: pyarrow.Schema, name: str, column: str) -> None:
    if column not in schema.names:
        raise no_column(name, column, tuple(schema.names))
    if schema.names.count(column) > 1:
        raise DatasetRefused(f"{name} has a column `{column}` twice.", hint="Give one of the two another name.")
    kind = schema.field(column).type
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not any(known(kind) for known in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)):
        raise not_a_text(f"The column of {name}", column, _label(kind))


def _label(kind: pyarrow.DataType) -> str:
    types = pyarrow.types
    if types.is_struct(kind):
        return "message" if kind.get_field_index("role") >= 0 else "struct"
    if not types.is_nested(kind):
        return str(kind)
    inside = None if types.is_map(kind) or types.is_union(kind) else kind.value_type
    return "list of objects" if inside is not None and types.is_struct(inside) else "column of lists"
