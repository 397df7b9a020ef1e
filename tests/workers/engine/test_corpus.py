"""Text into windows: exact lengths, seeds, hashes, and shared runs of tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from tests.fixtures.tiny_models import write_tiny_model
from workers.engine.corpus import Corpus, Text
from workers.engine.errors import DatasetError
from workers.engine.overlap import RUN, overlapping
from workers.engine.python_docs import python_docs

TEXT = Text("some", torch.arange(1000), "0" * 64)


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
    corpus = Corpus(tmp_path)
    with pytest.raises(DatasetError, match="not fetched"):
        corpus.read({"kind": "local", "path": "/x"}, path=None)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not UTF-8"):
        corpus.read({"kind": "local", "path": "/x"}, path=tmp_path / "bytes")


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
