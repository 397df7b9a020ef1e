"""What is known of a family of models stands in `espalier/families`: no other room names one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from espalier.families import FAMILIES

ROOT = Path(__file__).parents[2]
ROOMS = ("app", "espalier", "workers")
JUSTIFIED: Final = {
    ("app/api/endpoints/jobs/jobs.py", "opt"): "an example of a body in OpenAPI names a repository",
    ("app/api/endpoints/jobs/jobs.py", "llama"): "an example of a body in OpenAPI has a name",
    ("espalier/probe/unread_keys.py", "layer_types"): "read where a stranger's family does not have it",
}
"""File, name -> why it stands there."""
NAMES = frozenset(
    {family.architecture for family in FAMILIES.values()}
    | {family.pair_tokenizer for family in FAMILIES.values() if family.pair_tokenizer}
    | FAMILIES.keys()
)
"""Model types and stock classes."""
FIELDS = frozenset(name for family in FAMILIES.values() for name in family.named_fields())
"""Keys of config.json that mean the same and are called otherwise from family to family."""
WORD = re.compile(rf"(?<!\w)({'|'.join(sorted(NAMES, key=len, reverse=True))})(?!\w)")


def _docstrings(tree: ast.AST) -> set[int]:
    """Texts that stand alone: docstrings, of fields too; they may give examples."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _named(tree: ast.AST) -> Iterator[str]:
    """Every family that a module names in a text or an import, and every field that only some families have."""
    apart = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield from WORD.findall(node.value)
            yield from {node.value} & FIELDS
        elif isinstance(node, ast.Attribute) and node.attr in FIELDS:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from WORD.findall(node.module.replace(".", " "))
            yield from (alias.name for alias in node.names if alias.name in NAMES)


def test_no_other_room_names_a_family() -> None:
    seen = {
        (path.relative_to(ROOT).as_posix(), name)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not path.is_relative_to(ROOT / "espalier/families")
        for name in _named(ast.parse(path.read_text()))
    }
    assert seen - JUSTIFIED.keys() == set(), "ask `espalier.families`"
    assert JUSTIFIED.keys() - seen == set(), "these are justified and not there"


def test_a_name_is_seen_wherever_it_stands() -> None:
    seen = _named(
        ast.parse(
            'from transformers.models.opt import x\nfrom transformers import LlamaConfig\nA = "a mixtral"\n'
            'B = c.ffn_dim\nD = getattr(c, "n_inner")\nE = "Qwen2Tokenizer"\nF = "optimise"\n"""llama"""\n'
        )
    )
    assert sorted(seen) == ["Qwen2Tokenizer", "ffn_dim", "mixtral", "n_inner", "opt"]
