"""Patterns of users: they find what they always found, and cost next to nothing whatever they say."""

from __future__ import annotations

import random
import re
import resource
import time
from fnmatch import fnmatchcase

import pytest

from app.services.hooks import globs
from espalier.recipe.expressions import BadPattern, Selection
from espalier.recipe.steps.prune import Targets

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in range(12)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.experts.3.down_proj", "attn.c_attn")
]
ORDINARY = [
    "q_proj",
    r"layers\.(0|11)\.",
    "^model",
    "proj$",
    r"layers\.[0-3]\.mlp",
    "(?i)MLP",
    r"\bup_proj\b",
    r"\d{2}",
    "(q|o)_proj",
    "(?:up|down)_proj$",
    r"experts\.\d+",
    "[^.]+_attn",
    "a{1,2}t",
    ".*",
    r"[[:digit:]]{2}",
    r"\x6dlp",
]


@pytest.mark.parametrize("pattern", ORDINARY)
def test_an_ordinary_pattern_selects_what_it_did(pattern: str) -> None:
    expected = re.compile(pattern.replace("[[:digit:]]", "[0-9]"))
    for name in NAMES:
        assert Targets(include=[pattern]).selects(name) == bool(expected.search(name)), name
        assert Targets(exclude=[pattern]).selects(name) != bool(expected.search(name)), name


def test_a_name_is_selected_by_any_that_includes_it_and_none_that_excludes_it() -> None:
    chosen = Targets(include=["q_proj", "^model.layers.1\\."], exclude=["mlp", "experts"])
    assert [name for name in NAMES if chosen.selects(name)] == [
        name for name in NAMES if ("q_proj" in name or ".1." in name) and "mlp" not in name
    ]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"(?!x)y", "choose with `include` and `exclude`"),
        (r"(?<=x)y", "choose with `include` and `exclude`"),
        (r"(\w)\1", "not in RE2 syntax"),
        ("a++", "not in RE2 syntax"),
        ("a{2000}", "not in RE2 syntax"),
        (r"(?i)\pL{1,900}", "not in RE2 syntax"),
        ("a{,3}", "a brace that is no repetition"),
        ("(?:mlp){e<=1}", "a brace that is no repetition"),
    ],
)
def test_what_re2_would_not_read_as_it_was_meant_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(BadPattern, match=why) as refusal:
        Selection([], ["mlp", pattern])
    assert refusal.value.place == "exclude/1"


@pytest.mark.parametrize("pattern", [r"a\{,3}", "[{]", r"\pL\p{Lu}\x{61}", "[]{]", r"[\]{]", "a{2}b{1,}c{0,3}"])
def test_a_brace_that_is_quoted_or_repeats_is_taken(pattern: str) -> None:
    Selection([pattern], [])


def test_no_pattern_of_two_hundred_characters_takes_memory_or_time() -> None:
    nested = "a?"
    hostile = []
    while len(nested) < 180:
        nested = f"(?:{nested}){{9}}"
        hostile += [nested, nested.replace("a", "\\pL"), f"(?i)(?:{nested}|[^a])*$"]
    hostile += [".*" * 90 + "=", "(a+)+" * 20 + "$", "(" * 90 + ")" * 90, "[^a]" * 45, r"\pL?" * 40]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    for pattern in hostile:
        try:
            Targets(include=[pattern]).selects("model.layers.0.self_attn.q_proj" * 6)
        except BadPattern:
            continue
    assert time.thread_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024, "KiB: 1 MiB for each that is kept"


@pytest.mark.parametrize("seed", range(3))
def test_a_glob_is_what_fnmatch_takes_it_for(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3000):
        glob = "".join(rng.choice("ab*?[]!-c\n\\.é") for _ in range(rng.randrange(1, 9)))
        text = "".join(rng.choice("abc-!]\n\\.é[") for _ in range(rng.randrange(7)))
        assert globs.matches(glob, text) == fnmatchcase(text, glob), (glob, text)


@pytest.mark.parametrize("glob", ["*" + "?" * 299, "*a" * 150 + "b", "*" + "[!b]" * 70 + "c", "?" * 300 + "*b"])
def test_a_glob_takes_linear_time(glob: str) -> None:
    began = time.thread_time()
    assert globs.matches(glob, "a" * 250_000) == glob.endswith("?")
    assert time.thread_time() - began < 0.5
