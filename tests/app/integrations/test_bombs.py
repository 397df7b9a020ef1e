"""A few bytes that unfold to a quarter of a gigabyte: read or refused by name within 192 MiB of data."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from espalier.parent_death import die_with_parent
from workers.processes.process import ROOT

MIB = 2**20
READ = """
import sys
from pathlib import Path
from espalier.errors import DatasetRefused
from espalier.documents import gather as documents
try:
    print(sorted(documents.gather([Path(sys.argv[1])], "text", Path(sys.argv[1]).parent).warnings))
except DatasetRefused as error:
    print(error)
"""


def _rows(path: Path) -> None:
    table = pyarrow.table({"text": pyarrow.array(["a" * MIB] * 256)})
    pyarrow.parquet.write_table(table, path, compression="zstd")


BOMBS = {
    "line.jsonl.gz": (b'{"text": "', b"a", "longer than"),
    "list.json.gz": (b"[", b"[],", "is a list"),
    "blank.jsonl.gz": (b"", b"\n", "no text"),
    "deep.json.gz": (b"", b"[", "JSON"),
    "book.txt.gz": (b"", b"a", "text-cut"),
}
"""How it begins, what it repeats, and what is said of it."""


@pytest.mark.deep
@pytest.mark.parametrize("name", [*BOMBS, "rows.parquet"])
def test_a_bomb_of_text_ends_in_its_name(name: str, tmp_path: Path) -> None:
    path, word = tmp_path / name, "text-cut"
    if name in BOMBS:
        begin, repeated, word = BOMBS[name]
        path.write_bytes(gzip.compress(begin + repeated * (256 * MIB // len(repeated)), 1))
    else:
        _rows(path)
    command = die_with_parent([sys.executable, "-c", READ, str(path)], memory=192 * MIB)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert word in done.stdout, done.stderr[-500:]
