"""Few bytes that ask for many: models, texts and bodies, each with the word that it has to end in."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow
import pyarrow.parquet

from tests.app.api import stalls
from tests.app.services.spelled_out import SPELLED_OUT
from tests.espalier.probe.checkpoints import header_of, safetensors
from tests.fixtures.library.demo_model import DEMO_MODEL

MIB: Final = 2**20
DEEP: Final = '{"model_type": "llama", "a": ' + "[" * 500_000 + "]" * 500_000 + "}"
LAUGHS: Final = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 9)}]" for n in range(60))
TEMPLATE: Final = "{% for a in b %}"


@dataclass(frozen=True)
class Bomb:
    """A good model that is spoiled in its folder, a text that is written to a path, or a body that is sent."""

    kind: Literal["model", "text", "body"]
    ends: str
    """The code of the refusal, or the class of the job's error, or its state."""
    make: Callable[[Path], object]
    file: str = ""

    def write(self, folder: Path) -> Path:
        """Write the model, or the text or body, and return where it is."""
        target = folder / (self.file or self.kind)
        if self.kind == "model":
            shutil.copytree(DEMO_MODEL, target)
        self.make(target)
        return target


def _spoiled(name: str, ends: str, change: Callable[[dict[str, Any]], object]) -> Bomb:
    """Change one JSON file of the model."""

    def spoil(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return Bomb("model", ends, spoil)


def _with(name: str, ends: str, text: str) -> Bomb:
    """Put a file of the model, a new one or one that is there."""
    return Bomb("model", ends, lambda folder: (folder / name).write_text(text))


def _experts(folder: Path) -> None:
    config, tensors = SPELLED_OUT["half a million experts"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(header_of(tensors)))


def _header(entries: int, name: str, ends: str) -> Bomb:
    def spoil(folder: Path) -> None:
        header = header_of({f"{name}{index}": ("U8", [1]) for index in range(entries)})
        data = json.dumps(header, separators=(",", ":")).encode()
        (folder / "model.safetensors").write_bytes(safetensors(data, entries))

    return Bomb("model", ends, spoil)


def _index(entries: int) -> Bomb:
    def spoil(folder: Path) -> None:
        names = ",".join(f'"{index:x}":"a.safetensors"' for index in range(entries))
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        (folder / "model.safetensors.index.json").write_text(f'{{"metadata":{{}},"weight_map":{{{names}}}}}')

    return Bomb("model", "source-unsafe", spoil)


def _normalizer(levels: int, *steps: str) -> Bomb:
    """Steps that each write a text for a letter, in so many sequences."""
    step: dict[str, Any] = {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": "e"}, "content": content} for content in steps],
    }
    for _ in range(levels):
        step = {"type": "Sequence", "normalizers": [step]}
    return _spoiled("tokenizer.json", "source-unsafe", lambda it: it.update(normalizer=step))


def _token(number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 5, "content": f"<{number}>"} | flags


def _gzip(file: str, ends: str, begin: bytes, repeated: bytes) -> Bomb:
    """4 GiB in members of a MiB."""

    def write(path: Path) -> None:
        path.write_bytes(gzip.compress(begin) + gzip.compress(repeated * (MIB // len(repeated))) * 4096)

    return Bomb("text", ends, write, file)


def _parquet(values: int, size: int, rows: int) -> Bomb:
    """Rows that are numbers of a few long texts."""

    def write(path: Path) -> None:
        texts = pyarrow.array([chr(97 + number % 26) * (size + number) for number in range(values)])
        numbers = pyarrow.array([number % values for number in range(rows)], pyarrow.int32())
        table = pyarrow.table({"text": pyarrow.DictionaryArray.from_arrays(numbers, texts)})
        pyarrow.parquet.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**31 - 1)

    return Bomb("text", "dataset_error", write, "rows.parquet")


def _body(name: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(stalls.bodies()[name])


def _patterns(path: Path) -> None:
    prune = {"method": "wanda", "sparsity": 0.5, "targets": {"include": stalls.RUNS_AWAY}}
    path.write_text(json.dumps({"source": {"kind": "local", "path": str(DEMO_MODEL)}, "spec": {"prune": prune}}))


BOMBS: Final[dict[str, Bomb]] = {
    "half a million experts": Bomb("model", "unsupported-architecture", _experts),
    "header of 15 MiB": _header(110_000, f"model.layers.0.{'x' * 60}", "source-unsafe"),
    "header of 200,000 tensors": _header(200_000, "t", "unsupported-architecture"),
    "index of 600,000 tensors": _index(600_000),
    "index of a million tensors": _index(1_000_000),
    "configuration of lists in lists": _with("config.json", "source-unsafe", DEEP),
    "normalizer that writes pages": _normalizer(0, "e" * 100_000),
    "normalizers that double 25 times": _normalizer(0, *["ee"] * 25),
    "normalizers in normalizers": _normalizer(200, "ee"),
    "400,000 added tokens": _spoiled(
        "tokenizer.json", "source-unsafe", lambda it: it.update(added_tokens=[_token(n) for n in range(400_000)])
    ),
    "vocabulary of two million tokens": _spoiled(
        "tokenizer.json",
        "source-unsafe",
        lambda it: it["model"]["vocab"].update({f"{n:x}": 5 for n in range(2_100_000)}),
    ),
    "settings of 400,000 tokens": _spoiled(
        "tokenizer_config.json",
        "source-unsafe",
        lambda it: it.update(added_tokens_decoder={str(n): _token(n) for n in range(400_000)}),
    ),
    "template of 8 MiB": _with("chat_template.jinja", "invalid-request", TEMPLATE * (MIB // 2)),
    "template of 48 MiB in the settings": _spoiled(
        "tokenizer_config.json", "source-unsafe", lambda it: it.update(chat_template=TEMPLATE * (3 * MIB))
    ),
    "card of aliases of aliases": _with("README.md", "succeeded", f"---\n{LAUGHS}\n---\n"),
    "one line of 4 GiB": _gzip("line.jsonl.gz", "dataset_error", b'{"text": "', b"a"),
    "list of 4 GiB": _gzip(
        "list.json.gz", "dataset_error", b'[{"text":null}', b',{"text":null,"a":"' + b"a" * 65_515 + b'"}'
    ),
    "4 GiB of zeros": _gzip("zeros.txt.gz", "dataset_error", b"", b"\0"),
    "lists in lists in a row": _gzip("deep.jsonl.gz", "dataset_error", b'{"text": ', b"["),
    "a line of text of 4 GiB": _gzip("book.txt.gz", "succeeded", b"", b"a"),
    "4 GiB of spaces": _gzip("spaces.txt.gz", "succeeded", b"", b" "),
    "parquet of a dictionary of 448 MiB": _parquet(64, 7 * MIB, 2**20),
    "parquet of rows of 64 MiB": _parquet(1, 64 * MIB, 10_000),
    "objects in objects": Bomb("body", "malformed-request", _body("deep objects")),
    "quotes in an open string": Bomb("body", "malformed-request", _body("quotes in an open string")),
    "long numbers": Bomb("body", "malformed-request", _body("long numbers")),
    "patterns that unfold": Bomb("body", "invalid-request", _patterns),
}
"""A card is not spelled out where nobody asks for it, and a text is cut: their jobs are as good as any."""
