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
    hits = search(words)[:FIRST_HITS]
    assert answer in hits, f"{question} {words!r} leads to {hits}"
