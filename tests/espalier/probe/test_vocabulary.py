"""A tokenizer's files are what their names say, and fit the model, before anybody pays for a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from espalier.errors import UnsafeSource
from espalier.families import FAMILIES
from espalier.probe import check, probe, vocabulary
from espalier.probe.config import parse_config
from espalier.recipe.spec import CompressionSpec
from tests.espalier.probe.checkpoints import LLAMA, TOKENIZER, write_model
from tests.espalier.probe.generated import tiny

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9085657\n"
GOOD = json.dumps(TOKENIZER).encode()
TOO_LARGE = {"a": 0, "b": 48}

WRONG: dict[str, tuple[bytes, str]] = {
    "a pointer": (POINTER, "Git LFS pointer"),
    "empty": (b"", "is empty"),
    "cut": (GOOD[: len(GOOD) // 2], "not valid JSON"),
    "a page": (b"<!DOCTYPE html><html></html>", "not valid JSON"),
    "not text": (b"\xff\x00\x01", "not UTF-8"),
    "a list": (b"[]", "not a JSON object"),
    "an object": (b"{}", "no vocabulary"),
    "its configuration": (b'{"tokenizer_class": "LlamaTokenizer"}', "no vocabulary"),
    "without tokens": (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "no vocabulary"),
    "ids of text": (b'{"model": {"vocab": {"a": "0"}}}', "no numbers"),
    "negative ids": (b'{"model": {"vocab": {"a": -1}}}', "no numbers"),
    "larger than the embedding": (json.dumps({"model": {"vocab": TOO_LARGE}}).encode(), "48 rows"),
    "a list larger than the embedding": (json.dumps({"model": {"vocab": [["a", 0.0]] * 49}}).encode(), "48 rows"),
    "a step that is a bomb": (
        json.dumps(
            TOKENIZER | {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 9999}}
        ).encode(),
        "normalizer",
    ),
    "tokens added beyond": (json.dumps(TOKENIZER | {"added_tokens": [{"id": 48}]}).encode(), "48 rows"),
}


@pytest.mark.parametrize(("content", "why"), WRONG.values(), ids=list(WRONG))
def test_a_tokenizer_that_is_none_is_refused_by_name(content: bytes, why: str, tmp_path: Path) -> None:
    (write_model(tmp_path) / "tokenizer.json").write_bytes(content)
    with pytest.raises(UnsafeSource, match=why) as caught:
        probe(tmp_path)
    assert caught.value.module == "tokenizer.json"
    assert caught.value.hint
    assert probe(tmp_path, unread={"tokenizer.json"}).tokenizer_present


@pytest.mark.parametrize("name", vocabulary.ADDING)
def test_files_beside_a_tokenizer_add_no_more_than_it_may(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "MAX_ADDED", 8)
    write_model(tmp_path)
    content = {f"<{number}>": number for number in range(9)}
    document = content if name == "added_tokens.json" else {"extra_special_tokens": content}
    (tmp_path / name).write_text(json.dumps(document))
    with pytest.raises(UnsafeSource, match="adds tokens beyond the 8") as caught:
        probe(tmp_path)
    assert caught.value.module == name
    monkeypatch.setattr(vocabulary, "MAX_ADDED", 20)
    assert probe(tmp_path).tokenizer_present
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UnsafeSource, match="Git LFS pointer"):
        probe(tmp_path)


PAIRS: dict[str, tuple[bytes, bytes, str, str]] = {
    "a pointer for a vocabulary": (POINTER, b"a b\n", "vocab.json", "pointer"),
    "a pointer for merges": (b'{"a": 0}', POINTER, "merges.txt", "pointer"),
    "no vocabulary": (b"", b"a b\n", "vocab.json", "empty"),
    "no merges": (b'{"a": 0}', b"#version: 0.2\n", "merges.txt", "no merges"),
    "a cut vocabulary": (b'{"a": 0, "b', b"a b\n", "vocab.json", "JSON"),
    "too large": (json.dumps(TOO_LARGE).encode(), b"a b\n", "vocab.json", "rows"),
}


@pytest.mark.parametrize(("vocab", "merges", "name", "why"), PAIRS.values(), ids=list(PAIRS))
def test_a_pair_that_is_none_is_refused_by_name(
    vocab: bytes, merges: bytes, name: str, why: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, tiny("gpt2"))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_bytes(vocab)
    (folder / "merges.txt").write_bytes(merges)
    with pytest.raises(UnsafeSource, match=why) as caught:
        probe(folder)
    assert caught.value.module == name


def _sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")


def _other(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"\n\x0e\n\x05<unk>")


def _pair(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (folder / "merges.txt").write_text("a b\n")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (_sentencepiece, "SentencePiece tokenizer alone"),
        (_pair, "tokenizer of a llama does not read"),
        *(
            (_other(name), name)
            for name in ("spiece.model", "tokenizer.model.v3", "tekken.json", "qwen.tiktoken", "vocab.txt")
        ),
        (lambda _folder: None, "no tokenizer"),
    ],
)
def test_a_job_that_reads_text_is_told_what_is_there_instead(
    there: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, LLAMA)
    (folder / "tokenizer.json").unlink()
    there(folder)
    spec = CompressionSpec.model_validate({"prune": {"method": "wanda", "sparsity": 0.5}})
    [problem] = check(spec, probe(folder))
    assert (problem.pointer, problem.code) == ("/source", "no-tokenizer")
    assert words in problem.detail


def test_a_class_that_reads_no_pair_is_told_as_what_stands_against_it(tmp_path: Path) -> None:
    """A GPT-2 reads one: saved by newer tools, it names a class that does not."""
    (tmp_path / "config.json").write_text(json.dumps(tiny("gpt2")))
    _pair(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    family = parse_config(tiny("gpt2"))
    assert "the tokenizer_class of tokenizer_config.json does not read" in (vocabulary.missing(tmp_path, family) or "")
    (tmp_path / "tokenizer_config.json").unlink()
    assert vocabulary.missing(tmp_path, family) is None


@pytest.mark.deep
@pytest.mark.parametrize(
    "named", [None, "GPT2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "LlamaTokenizer"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_is_read_where_stock_transformers_reads_it(family: str, named: str | None, tmp_path: Path) -> None:
    config: dict[str, Any] = tiny(family)
    (tmp_path / "config.json").write_text(json.dumps(config))
    _pair(tmp_path)
    if named is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    try:
        stock = len(AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)("ab")["input_ids"]) == 1
    except ValueError:
        stock = False
    assert (vocabulary.missing(tmp_path, parse_config(config)) is None) <= stock
