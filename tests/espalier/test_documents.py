"""Data sets as people and exporters write them: read right, or refused by name with a way out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from espalier.documents import gather
from espalier.documents.text_files import HEAD_BYTES
from espalier.errors import DatasetRefused


def kept(path: Path, data: bytes, column: str = "text") -> tuple[str, set[str]]:
    path.write_bytes(data)
    text = gather.gather([path], column, path.parent / "cache")
    assert text.path is not None
    return text.path.read_bytes().decode(), set(text.warnings)


GIVEN = '{"text": "Grün"}\n{"text": "wächst"}\n'
READ: list[tuple[str, bytes, set[str]]] = [
    ("rows.jsonl", GIVEN.encode(), set()),
    ("ROWS.JSONL", GIVEN.encode(), set()),
    ("rows.ndjson", GIVEN.encode(), set()),
    ("rows.NdJson.GZ", gzip.compress(GIVEN.encode()), set()),
    ("rows.jsonl", GIVEN.encode("utf-8-sig"), set()),  # as Notepad saves it
    ("rows.jsonl", GIVEN.encode("utf-16"), set()),  # as PowerShell writes it
    ("rows.jsonl", GIVEN.encode("utf-16-be"), set()),
    ("rows.jsonl", GIVEN.encode("utf-32"), set()),
    ("rows.jsonl", GIVEN.replace("\n", "\r\n").encode(), set()),
    ("rows.jsonl", GIVEN.replace("\n", "\r").encode(), set()),
    ("rows.jsonl", GIVEN.replace("\n", "\n\n \n").encode(), set()),
    ("rows.jsonl", GIVEN.replace("\n", "").encode(), set()),  # objects one behind the other
    ("rows.jsonl", GIVEN.replace("\n", ",\n").encode(), set()),
    ("rows.jsonl", ("\x1e" + GIVEN.replace("\n", "\n\x1e")).encode(), set()),  # RFC 7464
    ("rows.jsonl", GIVEN.encode() + b"\x00" * 500, set()),  # the tail that a power cut leaves
    ("rows.jsonl", f"[{GIVEN.replace(chr(10), ',', 1)}]".encode(), set()),  # one list after all
    ("rows.json", json.dumps([{"text": "Grün"}, {"text": "wächst"}], indent=2).encode(), set()),
    ("rows.json", '{\n  "text": "Grün"\n}\n{\n  "text": "wächst"\n}'.encode(), set()),
    ("rows.json", f"[{GIVEN.replace(chr(10), ',')}]".encode(), set()),  # a comma too many
    ("rows.jsonl", b'{"text": "Gr\\u00fcn", "x": NaN, "y": 1e999}\n{"text": "w\xc3\xa4chst"}', set()),
    ("rows.jsonl", f'{{"text": "Grün", "n": {"9" * 5000}}}\n{{"text": "wächst"}}'.encode(), set()),
    ("rows.jsonl", f'{{"text": null}}\n{GIVEN}{{"text": NaN}}\n{{"id": 3}}\n'.encode(), {"rows-skipped"}),
    ("rows.jsonl", f"null\n{GIVEN}".encode(), {"rows-skipped"}),
    ("rows.jsonl", '{"text": "Gr\\u0000ün"}{"text": "wächst"}'.encode(), {"zeros-left-out"}),
    ("rows.jsonl", '{"meta": {"text": 1}, "text": "Grün"}{"text": "wächst"}'.encode(), set()),
]


@pytest.mark.parametrize(("name", "data", "warned"), READ, ids=range(len(READ)))
def test_rows_as_people_have_them_are_read(name: str, data: bytes, warned: set[str], tmp_path: Path) -> None:
    assert kept(tmp_path / name, data) == ("Grün\n\nwächst", warned)


def test_half_of_a_character_is_replaced_and_told(tmp_path: Path) -> None:
    whole, halves = r'{"text": "\ud83d\ude00"}', r'{"text": "a\ud83d b\ude00"}'
    assert kept(tmp_path / "a.jsonl", whole.encode()) == ("😀", set())
    assert kept(tmp_path / "b.jsonl", halves.encode()) == ("a\ufffd b\ufffd", {"text-repaired"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_plain_text_is_read_in_the_encodings_that_say_so(encoding: str, tmp_path: Path) -> None:
    text = "Größe und Maß\r\n" * 9000
    assert kept(tmp_path / "book.TXT", text.encode(encoding))[0].encode() == text.encode()
    assert kept(tmp_path / "book.txt.gz", gzip.compress(text.encode(encoding)))[0].encode() == text.encode()
    if encoding == "utf-8":  # `head -c` ends in the middle of a character
        assert kept(tmp_path / "cut.txt", "Maß".encode()[:-1])[0] == "Ma"


REFUSED: list[tuple[str, bytes, str]] = [
    ("rows.jsonl", GIVEN.encode("cp1252"), "Windows-1252"),
    ("book.txt", "Größe".encode("latin-1") + b" " * 200_000, "Windows-1252"),
    ("book.txt", b" " * 200_000 + "Größe".encode("latin-1") + b" " * 9, "200,002"),
    ("rows.csv", b"text\nx\n", "to_json"),
    ("ROWS.TSV", b"text\nx\n", "to_json"),
    ("rows.jsonl.zst", b"(\xb5/\xfd", "gzip"),
    ("rows.jsonl.gz.gz", gzip.compress(gzip.compress(GIVEN.encode())), "packed twice"),
    ("rows.jsonl.gz", gzip.compress(gzip.compress(GIVEN.encode())), "packed twice"),
    ("rows.json", f"[{GIVEN.replace(chr(10), ',')}] {GIVEN}".encode(), "behind its list"),
    ("rows.json", f"[{GIVEN.replace(chr(10), ',')}][]".encode(), "behind its list"),
    ("rows.json", f"[{GIVEN.replace(chr(10), ',')}".encode(), "cut"),
    ("rows.parquet.gz", b"", "Unpack"),
    ("notes.docx", b"PK\x03\x04", "txt"),
    ("rows.jsonl", gzip.compress(GIVEN.encode()), ".gz"),
    ("rows.txt", b"PAR1" + b"x" * 99, "parquet"),
    ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("rows.txt", GIVEN.encode() * 3, "jsonl"),
    ("rows.jsonl.gz", gzip.compress(GIVEN.encode() * 50)[:-20], "damaged"),
    ("rows.jsonl", b"", "no text"),
    ("rows.jsonl", b"\n\n\n", "no text"),
    ("rows.jsonl", b'{"text": null}\n', "no text"),
    ("rows.jsonl", b'{"text": ""}\n', "no text"),
    ("rows.jsonl", b'{"content": "x"}\n', "content"),
    ("rows.jsonl", rb'{"con\ud83dtent": "x"}', "con\ufffdtent"),
    ("rows.txt", f"[{GIVEN.strip().replace(chr(10), ',')}]".encode(), "jsonl"),
    ("rows.jsonl", b'{"content": "x"}\n' * 5000, "content"),
    ("rows.jsonl", b'{"messages": [{"role": "user", "content": "x"}], "id": 1}\n', "messages"),
    ("rows.jsonl", b'{"text": [{"role": "user", "content": "x"}]}\n', "chat template"),
    ("rows.jsonl", b'{"text": [1, 2, 3]}\n', "list"),
    ("rows.jsonl", b'{"text": {"en": "x"}}\n', "it has an object"),
    ("rows.jsonl", b'{"text": 7}\n', "number"),
    ("rows.jsonl", b'{"text": true}\n', "truth value"),
    ("rows.jsonl", b'{"text": "a"}\n["text", "b"]\n', "Row 2"),
    ("rows.jsonl", b'"a string"\n', "a string"),
    ("rows.json", b'["a", "b"]', "a string"),
    ("rows.json", b'{"text": ["a", "b"]}', "list"),
    ("rows.jsonl", b"{'text': 'a'}\n", "double quotes"),
    ("rows.jsonl", b'{"text": "a",}\n', "not JSON"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": "b"\n' * 3, "Row 2"),
    ("rows.jsonl", b'{"text": "a", "text": "b"}\n', "twice"),
    ("rows.jsonl", b"text\nfoo\n", "not JSON"),
    ("rows.jsonl", b'{"text": ' + b"[" * 100_000, "deep"),
]


@pytest.mark.parametrize(("name", "data", "word"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_text_is_refused_by_name(name: str, data: bytes, word: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused) as caught:
        kept(tmp_path / name, data)
    assert word in str(caught.value)
    assert name.lower() in str(caught.value).lower() or word == "no text"


TURNED: list[bytes] = [
    b'{"id":{"0":1,"1":2},"text":{"0":"one","1":"two"}}',  # pandas' default
    b'{"text":{"a":"one","b":"two"}}',  # with an index of its own
    b'{"text":{"0":"' + b"one " * 3_000_000 + b'","1":"two"}}',  # longer than any row
    b'{"0":{"text":"one"},"1":{"text":"two"}}',  # index
    b'{"columns":["text"],"index":[0,1],"data":[["one"],["two"]]}',  # split
    b'{"schema":{"fields":[{"name":"text"}]},"data":[{"index":0,"text":"one"}]}',  # table
    b'[["one"],["two"]]',  # values
    b'{"text":["one","two"]}',  # to_dict of a data set
]
"""Tables, each as one object or as lists."""


@pytest.mark.parametrize("data", TURNED, ids=range(len(TURNED)))
def test_a_table_that_is_no_rows_is_told_how_to_be_written(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused, match="orient='records'") as caught:
        kept(tmp_path / "rows.json", data)
    assert "chat" not in str(caught.value)


@pytest.mark.parametrize("value", [b'[{"role": "user", "content": "x"}]', b'{"role": "user", "content": "x"}'])
def test_chat_messages_are_told_of_their_template(value: bytes, tmp_path: Path) -> None:
    with pytest.raises(DatasetRefused, match="chat template"):
        kept(tmp_path / "rows.jsonl", b'{"text": ' + value + b"}")


STRINGS = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
]


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_columns_of_strings_are_read_and_their_nulls_left_out(kind: Any, tmp_path: Path) -> None:
    rows = pyarrow.array(["one", None, "", "two", "two"], pyarrow.string()).cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": rows, "n": [1, 2, 3, 4, 5]}), tmp_path / "rows.PARQUET")
    data = (tmp_path / "rows.PARQUET").read_bytes()
    assert kept(tmp_path / "rows.PARQUET", data) == ("one\n\n\n\ntwo\n\ntwo", {"rows-skipped"})


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_rows_without_text_are_not_read_without_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MAX_READ_BYTES", 20 * gather.EMPTY_ROW_BYTES)
    rows = pyarrow.array(["one"] + [None] * 100 + ["two"], pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n' + "null\n" * 100 + '{"text": "two"}\n')
    assert kept(tmp_path / name, (tmp_path / name).read_bytes()) == ("one", {"rows-skipped", "text-unread"})


COLUMNS: list[tuple[Any, str]] = [
    (pyarrow.array([[{"role": "user", "content": "x"}]]), "chat template"),
    (pyarrow.array([[1, 2, 3]]), "list"),
    (pyarrow.array([{"en": "x"}]), "a struct"),
    (pyarrow.array([1]), "an int64"),
    (pyarrow.array([1.5]), "double"),
    (pyarrow.array([b"x"]), "binary"),
    (pyarrow.array([True]), "bool"),
]


@pytest.mark.parametrize(("values", "word"), COLUMNS, ids=lambda value: str(getattr(value, "type", value)))
def test_columns_that_are_no_text_are_refused(values: Any, word: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": values}), tmp_path / "rows.parquet")
    with pytest.raises(DatasetRefused) as caught:
        kept(tmp_path / "rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert word in str(caught.value)
    with pytest.raises(DatasetRefused, match="Name one of its columns: text"):
        kept(tmp_path / "rows.parquet", (tmp_path / "rows.parquet").read_bytes(), column="content")


def parquet(table: Any, path: Path) -> bytes:
    pyarrow.parquet.write_table(table, path)
    return path.read_bytes()


SPOILT: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: data[:-20], "Its end is missing"),
    (lambda _: b"PAR1PAR1", "Its end is missing"),
    (lambda data: data[:-4] + b"PARE", "encrypted"),
    (lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", "damaged"),
    (lambda data: data[:-200] + b"\xab" * 192 + data[-8:], "Write it again"),
    (lambda data: data[:4] + b"\xab" * 60 + data[64:], "Write it again"),
]


@pytest.mark.parametrize(("spoil", "word"), SPOILT, ids=range(len(SPOILT)))
def test_a_damaged_parquet_file_is_called_so(spoil: Callable[[bytes], bytes], word: str, tmp_path: Path) -> None:
    data = parquet(pyarrow.table({"text": ["one two three four five six seven"] * 9}), tmp_path / "rows.parquet")
    with pytest.raises(DatasetRefused) as caught:
        kept(tmp_path / "rows.parquet", spoil(data))
    assert word in str(caught.value)


def test_a_column_that_is_there_twice_or_not_at_all(tmp_path: Path) -> None:
    rows = pyarrow.array(["one"])
    twice = parquet(pyarrow.Table.from_arrays([rows, rows], names=["text", "text"]), tmp_path / "rows.parquet")
    with pytest.raises(DatasetRefused, match="`text` twice"):
        kept(tmp_path / "rows.parquet", twice)
    with pytest.raises(DatasetRefused, match="It has no columns"):
        kept(tmp_path / "rows.parquet", parquet(pyarrow.table({}), tmp_path / "rows.parquet"))


def test_rows_behind_what_is_read_are_told_and_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "MAX_READ_BYTES", HEAD_BYTES + 10)
    row = json.dumps({"meta": "x" * 999, "text": "a"}) + "\n"
    text, warned = kept(tmp_path / "rows.jsonl", (row * 3000).encode())
    assert (set(text.split("\n\n")), warned) == ({"a"}, {"text-unread"})
    listed, warned = kept(tmp_path / "rows.json", f"[{row.strip()}{(',' + row.strip()) * 3000}]".encode())
    assert (set(listed.split("\n\n")), warned) == ({"a"}, {"text-unread"})
