"""A newcomer's question is answered by one search for the field's word."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.docs.search import FIRST_HITS, search
from tests.fixtures.suite.pages import ROOT

ROWS: Final = re.findall(
    r"^\| (.+\?) \| (.+) \| `(.+)` \|$", (ROOT / "docs/questions.md").read_text(encoding="utf-8"), re.MULTILINE
)


def test_there_are_twenty_questions() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize(("question", "words", "answer"), ROWS, ids=[row[0] for row in ROWS])
def test_a_question_is_answered_by_one_search(question: str, words: str, answer: str) -> None:
    hits = search(words, tests=answer.startswith("tests/"))[:FIRST_HITS]
    assert answer in hits, f"{question} {words!r} leads to {hits}"


def test_words_that_stand_apart_are_found() -> None:
    assert search("learning-rate search")[0] == "espalier/retrain/rate_search.py"


def test_plural_and_singular_are_one_word() -> None:
    assert set(search("learning rates")) == set(search("learning rate"))


def test_code_and_its_tests_are_two_lists() -> None:
    assert all(path.startswith("tests/") for path in search("lease", tests=True))
    assert not any(path.startswith("tests/") for path in search("lease"))


def test_a_word_that_stands_nowhere_has_no_hits() -> None:
    assert search("xyzzy plugh") == search("xyzzy plugh", tests=True) == []
