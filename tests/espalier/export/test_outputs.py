"""A copy of a result is known by its card, wherever it lies; any other card says nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from espalier.errors import OwnOutput
from espalier.export.outputs import refuse_by_card


@pytest.mark.parametrize(
    "card",
    [
        "---\nlibrary_name: transformers\ntags: [espalier, pruned]\n---\n# A model\n",
        "---\r\ntags:\r\n- pruned\r\n- espalier\r\n---\r\n",
        "\ufeff---\ntags: espalier\n---\n",
        "---\na: {b: [c]}\ntags:\n- {f: g}\n- [h]\n- espalier.sparsity\n---\n",
        "---\nbase_model: org/a---b\ntags: [espalier]\n---\n",
    ],
)
def test_a_card_with_our_tag_is_refused(tmp_path: Path, card: str) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    with pytest.raises(OwnOutput, match="output of Espalier"):
        refuse_by_card(tmp_path)


@pytest.mark.parametrize(
    "card",
    [
        None,
        b"",
        b"# A model compressed by espalier\n",
        b"Text first\n---\ntags: [espalier]\n---\n",  # no front matter
        b"---\ntags: [espaliered]\n---\n",
        b"---\nlicense: mit\n---\n",
        b"---\n- a list\n---\n",
        b"---\ntags: [a, {\n---\n",  # no YAML
        b"---\ntags: !!python/object/apply:os.getcwd []\n---\n",
        b"---\n" + b"[" * 3_000 + b"\n---\n",
        b"---\n\xff\xfe\n---\n",
        b"---\nother: {tags: [espalier]}\nmodel-index: [{name: tags}, espalier]\n---\n",
        b"---\ntags: {a: espalier}\n---\n",
        b"---\ntags: [[espalier]]\n---\n",  # no word
        b"---\n- tags\n- espalier\n---\n",
        b'---\nlicense: !!int "_"\n---\n',  # what the parser's own constructors stumble over
        b'---\nlicense: !!bool "perhaps"\n---\n',
        b'---\nlicense: !!timestamp "soon"\n---\n',
    ],
)
def test_other_cards_say_nothing(tmp_path: Path, card: bytes | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_bytes(card)
    refuse_by_card(tmp_path)


def test_aliases_are_never_spelled_out(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 100)]
    card = "\n".join(["---", "a0: &a0 [x, x]", *levels, "tags: *a99", "---"])
    (tmp_path / "README.md").write_text(card)
    before = time.process_time()
    refuse_by_card(tmp_path)
    assert time.process_time() - before < 1, "nine to the power of a hundred words"


def test_a_card_that_nests_without_end_takes_no_time(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\ntags: {'[' * 60_000}\n---\n")
    before = time.process_time()
    refuse_by_card(tmp_path)
    assert time.process_time() - before < 1
