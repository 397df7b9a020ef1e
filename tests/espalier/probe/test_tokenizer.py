"""Tokenizers of strangers: those of the published families pass, those that could run wild do not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from espalier.errors import UnsafeSource
from espalier.probe.tokenizer import check_tokenizer
from tests.fixtures.library.demo_model import DEMO_MODEL

PLAIN: dict[str, Any] = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def replace(content: str, pattern: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def sequence(*steps: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", name: list(steps)}


def charsmap(*words: bytes) -> dict[str, Any]:
    data = (8).to_bytes(4, "little") + b"\x01" * 8 + b"\x00".join(words)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


TAME: list[dict[str, Any]] = [
    {},
    {"normalizer": sequence({"type": "Prepend", "prepend": "▁"}, SPACES)},  # Llama 2, Mistral
    {"normalizer": {"type": "NFC"}},  # Qwen
    {"normalizer": SPACES, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated"}},
    {"normalizer": sequence(charsmap(b"ABC", "\ufdfa".encode()), replace(" ", {"Regex": " {2,}"}))},  # T5
    {
        "pre_tokenizer": sequence(
            {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False},
            {"type": "Digits"},
            name="pretokenizers",
        )
    },
    {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
    },
    {"decoder": sequence(replace(" ", {"String": "▁"}), {"type": "ByteFallback"}, {"type": "Fuse"}, name="decoders")},
    {"added_tokens": [{"id": i, "content": f"<unused{i}>"} for i in range(10_000)]},
    {"model": {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 100}},
    {"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]], "unk_id": 0}},
    {"model": {"vocab": {"a": 0}, "merges": ["a b"]}},  # of old: no type
]
WILD: list[tuple[dict[str, Any], str]] = [
    ({"normalizer": replace("b" * 1200)}, "1200 bytes"),
    ({"normalizer": replace("b" * 60)}, "60 bytes of one"),
    ({"normalizer": sequence(*[replace("aaa")] * 4)}, "81 bytes"),
    ({"normalizer": sequence(sequence(replace("a" * 8)), sequence(replace("a" * 8)))}, "64 bytes"),
    ({"normalizer": replace("b" * 40, {"Regex": ""})}, "41 bytes"),
    ({"normalizer": {"type": "Prepend", "prepend": "x" * 2**20}}, "characters"),
    ({"normalizer": {"type": "Prepend", "prepend": "x" * 100}}, "prepends"),
    ({"normalizer": charsmap(b"x" * 1000)}, "of a character"),
    ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "%%"}}, "cannot be read"),
    ({"normalizer": {"type": "Program", "source": "boom"}}, "not known"),
    ({"normalizer": sequence(*[{"type": "NFC"}] * 100)}, "steps"),
    ({"normalizer": [1]}, "no step"),
    ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a|" * 5000}}}, "pattern"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Exec"}]}}, "not known"),
    ({"post_processor": {"type": "TemplateProcessing", "single": [{}] * 1000}}, "entries"),
    ({"post_processor": {"type": "TemplateProcessing", "special_tokens": {"x": {"ids": [0] * 100_000}}}}, "entries"),
    ({"decoder": replace("b" * 5000)}, "characters"),
    ({"added_tokens": [{"content": "x"}] * 100_001}, "added_tokens"),
    ({"added_tokens": [{"content": "x" * 5000}]}, "characters"),
    ({"added_tokens": {"x": 1}}, "no list"),
    ({"pre_tokenizer": {"type": []}}, "not known"),
    ({"decoder": {"type": {}}}, "not known"),
    ({"pre_tokenizer": {"type": "Sequence", "normalizers": [], "pretokenizers": [{"type": "Exec"}]}}, "not known"),
    ({"model": None}, "missing"),
    ({"model": {"type": ["BPE"], "vocab": {"a": 0}}}, "not known"),
    ({"model": {"type": "Unigram", "vocab": [1, 2]}}, "no text"),
    ({"model": {"type": "Unigram", "vocab": [{"a": -1.0}]}}, "no text"),
    ({"model": {"type": "Neural", "vocab": {}}}, "not known"),
    ({"model": {"type": "BPE", "vocab": {"x" * 5000: 0}}}, "characters"),
    ({"model": {"type": "BPE", "vocab": dict.fromkeys(map(str, range(2_000_001)), 0)}}, "tokens or merges"),
    ({"model": {"type": "BPE", "vocab": {}, "merges": [0] * 2_000_001}}, "tokens or merges"),
    ({"model": {"type": "Unigram", "vocab": [[1, 2]]}}, "no text"),
    ({"model": {"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 10**9}}, "words"),
    ({"model": {"type": "BPE", "vocab": {}, "dropout": 0.1}}, "random"),
]


@pytest.mark.parametrize("document", TAME, ids=range(len(TAME)))
def test_tokenizers_of_the_families_pass(document: dict[str, Any]) -> None:
    check_tokenizer(PLAIN | document)


def test_the_demo_models_tokenizer_passes() -> None:
    check_tokenizer(json.loads((DEMO_MODEL / "tokenizer.json").read_bytes()))


@pytest.mark.parametrize(("document", "word"), WILD, ids=range(len(WILD)))
def test_tokenizers_that_could_run_wild_are_unsafe(document: dict[str, Any], word: str) -> None:
    with pytest.raises(UnsafeSource, match=word) as caught:
        check_tokenizer(PLAIN | document)
    assert caught.value.module == "tokenizer.json"
    assert caught.value.hint
