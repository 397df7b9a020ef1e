"""Text into windows: exact lengths, seeds, hashes, and shared runs of tokens."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from espalier.errors import DatasetError, UnsafeTokenizerError
from espalier.memory import text as text_memory
from espalier.memory.text import PIECE_BYTES
from espalier.progress import steps_counted
from espalier.text import corpus as corpora
from espalier.text import pieces as cutting
from espalier.text import tokenising
from espalier.text.corpus import Corpus, Text
from espalier.text.overlap import RUN, overlapping
from espalier.text.pieces import pieces
from espalier.text.python_docs import python_docs
from tests.fixtures.library.tiny_models import write_tiny_model

TEXT = Text("some", torch.arange(1000), "0" * 64)
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}


def test_random_crops_are_seeded_pieces_of_the_stream() -> None:
    first = TEXT.windows(count=6, length=100, seed=1, selection="random")
    again = TEXT.windows(count=6, length=100, seed=1, selection="random")
    other = TEXT.windows(count=6, length=100, seed=2, selection="random")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.diff(dim=1) == 1).all()


def test_sequential_windows_are_the_first_ones() -> None:
    assert TEXT.windows(count=2, length=100, seed=0, selection="sequential").tolist()[1][0] == 100


def test_evaluation_windows_do_not_overlap_and_the_remainder_is_dropped() -> None:
    assert TEXT.evaluation(length=300, max_windows=None).shape == (3, 300)
    assert TEXT.evaluation(length=300, max_windows=2)[1, 0] == 300


@pytest.mark.parametrize("selection", ["random", "sequential"])
def test_a_text_that_is_shorter_than_the_request_tells_both_numbers(selection: str) -> None:
    with pytest.raises(DatasetError, match="1000 tokens; 11 windows of 100 need 1100"):
        TEXT.windows(count=11, length=100, seed=0, selection=selection)
    with pytest.raises(DatasetError, match="1000 tokens"):
        TEXT.evaluation(length=1001, max_windows=None)


def test_overlapping_crops_may_be_taken_from_a_short_text() -> None:
    assert TEXT.windows(count=50, length=100, seed=0, selection="random", overlapping=True).shape == (50, 100)


def test_held_out_topics_are_about_a_fifth_and_share_no_sentence_with_the_rest() -> None:
    train, validation = python_docs("train"), python_docs("validation")
    assert 0.1 < len(validation) / (len(train) + len(validation)) < 0.35
    words = validation.split()
    known = {tuple(words[start : start + 15]) for start in range(len(words))}
    words = train.split()
    assert known.isdisjoint(tuple(words[start : start + 15]) for start in range(len(words)))


def test_a_file_is_tokenised_once_and_known_by_its_hash(tmp_path: Path) -> None:
    corpus = Corpus(write_tiny_model(tmp_path / "model"))
    path = tmp_path / "text"
    path.write_text("Espalier trains trees along a wall. " * 50)
    spec = {"kind": "local", "path": "/data/garden.txt"}
    text = corpus.read(spec, path=path)
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert text.name == "garden.txt"
    assert corpus.tokenizer.decode(text.tokens) == path.read_text()
    assert corpus.read(spec, path=path) is text


def test_a_text_that_was_not_fetched_or_is_no_text_is_a_dataset_error(tmp_path: Path) -> None:
    corpus = Corpus(write_tiny_model(tmp_path))
    with pytest.raises(DatasetError, match="not fetched"):
        corpus.read({"kind": "local", "path": "/x"}, path=None)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not UTF-8"):
        corpus.read({"kind": "local", "path": "/x"}, path=tmp_path / "bytes")


SIZES = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("line", ["x\n" * 30 + "é" * 20 + "\r\n", "no end of line ", "é€😀"])
def test_pieces_are_the_text_and_end_where_lines_do(line: str, size: int) -> None:
    text = (line * (size // len(line.encode()) + 1)).encode()[:size].decode(errors="ignore")
    parts = list(pieces(BytesIO(text.encode())))
    assert "".join(parts) == text.replace("\r\n", "\n")
    assert all(len(piece.encode()) <= PIECE_BYTES for piece in parts)
    assert (len(parts) == 1) == (0 < len(text.encode()) <= PIECE_BYTES)
    if "\n" in line or " " in line:
        assert all(piece[-1] in "\n " for piece in parts[:-1])


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pieces of a thousand bytes."""
    for module in (corpora, cutting, tokenising):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)
    return 1000


def test_a_long_text_is_tokenised_in_pieces_with_special_tokens_at_its_ends_alone(
    tmp_path: Path, small_pieces: int
) -> None:
    model = write_tiny_model(tmp_path / "model")
    document = json.loads((model / "tokenizer.json").read_text())
    document["post_processor"] = TEMPLATE
    (model / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "long").write_text("Espalier trains trees along a wall.\n" * 100)
    corpus, spec, steps = Corpus(model), {"kind": "upload", "upload_id": "upl_1"}, steps_counted()
    text = corpus.read(spec, path=tmp_path / "long")
    assert steps_counted() - steps == 4, "each is one: a slow tokenizer does not hang"
    assert text.tokens.dtype == torch.int32
    assert text.evaluation(length=8, max_windows=None).dtype == torch.int64
    assert text.protocol()["text_pieces"].startswith("4 of")
    assert (text.tokens == 0).nonzero().flatten().tolist() == [0, len(text.tokens) - 1]
    assert corpus.tokenizer.decode(text.tokens[1:-1]) == (tmp_path / "long").read_text()
    # No more is read than is needed, and the beginning is the same.
    some = corpus.read(spec, path=tmp_path / "long", enough=1000)
    assert some.pieces == 2
    assert torch.equal(some.tokens, text.tokens[: len(some.tokens)])
    first = corpus.read(spec, path=tmp_path / "long", enough=10)
    assert first.protocol()["text_pieces"].startswith("1 of")
    (tmp_path / "short").write_text("Espalier trains trees along a wall.\n")
    assert "text_pieces" not in corpus.read(spec, path=tmp_path / "short", enough=10).protocol()


def test_no_text_takes_more_than_is_counted_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits between separators are a word each, which is the most: twice what prose takes."""
    monkeypatch.setattr(tokenising, "LOADING_BYTES", 2**26)
    monkeypatch.setattr(tokenising, "MOST_BYTES", text_memory.TOKENISING_BYTES)
    path = tmp_path / "text"
    path.write_text("".join(f"{number % 7},{number % 9};\n" for number in range(2**20 // 5)))
    text = Corpus(write_tiny_model(tmp_path / "model")).read({"kind": "local", "path": str(path)}, path=path)
    assert len(text.tokens) > 2**19


def test_a_text_takes_its_memory_in_another_process(tmp_path: Path) -> None:
    model, path = write_tiny_model(tmp_path / "model"), tmp_path / "text"
    path.write_text("Espalier trains trees along a wall. " * (2**19 // 36))
    before = psutil.Process().memory_info().rss
    text = Corpus(model).read({"kind": "local", "path": str(path)}, path=path)
    assert len(text.tokens) > 2**17
    grown = psutil.Process().memory_info().rss - before
    assert grown < 32 * 2**20, "the lists and offsets of the tokenizer are gone"


def _wild(model: Path, **changes: Any) -> None:
    document = json.loads((model / "tokenizer.json").read_text()) | changes
    (model / "tokenizer.json").write_text(json.dumps(document))


def test_a_tokenizer_that_runs_wild_is_named_and_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model, path = write_tiny_model(tmp_path / "model"), tmp_path / "text"
    path.write_text("a" * 100_000 + "!")
    spec = {"kind": "local", "path": str(path)}
    monkeypatch.setattr(tokenising, "LOADING_BYTES", 2**26)
    monkeypatch.setattr(tokenising, "LOADING_SECONDS", 1)
    monkeypatch.setattr(tokenising, "SECONDS", 0)
    _wild(model, normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "b" * 10_000})
    with pytest.raises(UnsafeTokenizerError, match="MiB of memory"):
        Corpus(model).read(spec, path=path)
    split = {"type": "Split", "pattern": {"Regex": "a*(?!a|!)."}, "behavior": "Isolated", "invert": False}
    _wild(model, normalizer=None, pre_tokenizer=split)
    with pytest.raises(UnsafeTokenizerError, match="CPU time"):
        Corpus(model).read(spec, path=path)
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsafeTokenizerError, match="cannot be loaded"):
        Corpus(model).read(spec, path=path)


def test_a_pool_of_threads_does_not_keep_the_other_process_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    corpus = Corpus(write_tiny_model(tmp_path / "model"))
    corpus.tokenizer(["a text", "another"] * 100)
    assert len(corpus.read({"kind": "builtin", "name": "python-docs", "split": "validation"}, path=None).tokens)


def test_windows_that_share_a_run_of_tokens_are_found() -> None:
    draws = torch.Generator().manual_seed(0)
    windows_NT = torch.randint(4096, (4, 100), generator=draws)
    learned_NT = torch.randint(4096, (3, 80), generator=draws)
    learned_NT[1, 20 : 20 + RUN] = windows_NT[2, 50 : 50 + RUN]
    learned_NT[2, : RUN - 1] = windows_NT[0, : RUN - 1]  # one token short
    assert overlapping(windows_NT, learned_NT).tolist() == [False, False, True, False]


# (length of the evaluation windows, length of the learned ones)
@pytest.mark.parametrize(("length", "learned"), [(8, 80), (100, 8), (RUN - 1, RUN - 1)])
def test_windows_shorter_than_a_run_are_shared_whole(length: int, learned: int) -> None:
    draws = torch.Generator().manual_seed(0)
    windows_NT = torch.randint(4096, (3, length), generator=draws)
    learned_NT = torch.randint(4096, (2, learned), generator=draws)
    run = min(length, learned)
    learned_NT[1, -run:] = windows_NT[2, :run]
    learned_NT[0, : run - 1] = windows_NT[0, : run - 1]  # one token short
    assert overlapping(windows_NT, learned_NT).tolist() == [False, False, True]
