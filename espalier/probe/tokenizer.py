"""Check an untrusted tokenizer.json: known kinds of steps, none that inflates a text, all bounded in size.

The tokenizer is a program that runs over all of a text. One step that writes a page for every letter fills the memory
of a worker; so steps are known by name, and what all of them together make of one byte is bounded.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final

from espalier.errors import UnsafeSource

NAME: Final = "tokenizer.json"
MAX_GROWTH: Final = 32
"""What normalizers may make of one byte: `▁` for a space is 3."""
MAX_WORD: Final = 64
"""Bytes that a step may put somewhere, or that stand for one character (NFKC makes up to 33 of one)."""
MAX_PATTERN: Final = 4096
MAX_STEPS: Final = 64
MAX_TOKENS: Final = 2_000_000
MAX_ADDED: Final = 100_000
MAX_TOKEN: Final = 4096
MAX_WORD_CHARACTERS: Final = 1000
"""WordPiece takes time by the square of a word."""

_STEPS: Final[Mapping[str, frozenset[str]]] = {
    "normalizer": frozenset(
        (
            "Sequence",
            "Prepend",
            "Replace",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Nmt",
            "Lowercase",
            "Strip",
            "StripAccents",
            "BertNormalizer",
            "Precompiled",
            "ByteLevel",
        )
    ),
    "pre_tokenizer": frozenset(
        (
            "Sequence",
            "ByteLevel",
            "Metaspace",
            "Whitespace",
            "WhitespaceSplit",
            "Punctuation",
            "Digits",
            "Split",
            "CharDelimiterSplit",
            "BertPreTokenizer",
            "UnicodeScripts",
            "FixedLength",
        )
    ),
    "post_processor": frozenset(
        (
            "Sequence",
            "TemplateProcessing",
            "ByteLevel",
            "BertProcessing",
            "RobertaProcessing",
        )
    ),
    "decoder": frozenset(
        (
            "Sequence",
            "ByteLevel",
            "Metaspace",
            "WordPiece",
            "BPEDecoder",
            "CTC",
            "Replace",
            "Fuse",
            "Strip",
            "ByteFallback",
        )
    ),
}
_MODELS: Final = frozenset({"BPE", "WordPiece", "WordLevel", "Unigram"})
_INSIDE: Final = ("normalizers", "pretokenizers", "processors", "decoders")


def check_tokenizer(document: Mapping[str, Any]) -> None:
    """Raise UnsafeSource where a parsed tokenizer.json holds what could run wild."""
    for part, allowed in _STEPS.items():
        steps = list(_steps(document.get(part), part, depth=0))
        if len(steps) > MAX_STEPS:
            raise _unsafe(part, f"has more than {MAX_STEPS} steps")
        growth = 1.0
        for step in steps:
            if (kind := str(step.get("type"))) not in allowed:
                raise _unsafe(part, f"has a step that is not known: {kind[:60]!r}")
            _require_small(step, part)
            growth *= _growth(step, part)
        if growth > MAX_GROWTH:
            raise _unsafe(part, f"makes up to {growth:.0f} bytes of one; {MAX_GROWTH} are allowed")
    _check_model(document.get("model"))
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED:
        raise _unsafe("added_tokens", f"is no list, or has more than {MAX_ADDED:,} entries")
    if any(not isinstance(token, dict) or len(str(token.get("content"))) > MAX_TOKEN for token in added):
        raise _unsafe("added_tokens", f"has an entry of more than {MAX_TOKEN} characters, or one that is no token")


def _steps(step: object, part: str, *, depth: int) -> Iterator[dict[str, Any]]:
    """Yield a step and all steps inside of it, in order."""
    if step is None:
        return
    if not isinstance(step, dict) or depth > 4:
        raise _unsafe(part, "is no step, or nests them too deeply")
    yield step
    if step.get("type") == "Sequence":
        inside = chain.from_iterable(step[name] for name in _INSIDE if isinstance(step.get(name), list))
        for other in islice(inside, MAX_STEPS + 1):
            yield from _steps(other, part, depth=depth + 1)


def _require_small(value: object, part: str, *, depth: int = 0) -> None:
    """Bound the size of everything in a step; a character map is checked separately."""
    if isinstance(value, dict):
        items = [item for key, item in value.items() if key not in {*_INSIDE, "precompiled_charsmap"}]
        keys = list(value)
    else:
        items, keys = (value, []) if isinstance(value, list) else ([], [])
    if len(items) > 256 or depth > 8 or any(len(str(key)) > MAX_TOKEN for key in keys):
        raise _unsafe(part, "has a step with more entries than any needs")
    if isinstance(value, str) and len(value) > MAX_PATTERN:
        raise _unsafe(part, f"has a pattern or text of more than {MAX_PATTERN} characters")
    if isinstance(value, int) and abs(value) > 2**32:
        raise _unsafe(part, "has a number beyond 2**32")
    for item in items:
        _require_small(item, part, depth=depth + 1)


def _growth(step: Mapping[str, Any], part: str) -> float:
    """Return how many bytes a step makes of one, at most."""
    match step.get("type"):
        case "Replace":
            content, pattern = str(step.get("content", "")).encode("utf-8", "replace"), step.get("pattern")
            if len(content) > MAX_WORD:
                raise _unsafe(part, f"replaces by {len(content)} bytes; {MAX_WORD} are allowed")
            if isinstance(pattern, dict) and isinstance(pattern.get("String"), str):
                return max(1.0, len(content) / max(1, len(pattern["String"].encode("utf-8", "replace"))))
            return 1.0 + len(content)  # an expression may match the nothing between two letters
        case "Prepend":
            if len(str(step.get("prepend", "")).encode("utf-8", "replace")) > MAX_WORD:
                raise _unsafe(part, f"prepends more than {MAX_WORD} bytes")
        case "Precompiled":
            _require_short_words(step.get("precompiled_charsmap"), part)
    return 1.0


def _require_short_words(encoded: object, part: str) -> None:
    """Check a map of SentencePiece: a size, a trie, and the zero-terminated replacements."""
    try:
        data = base64.b64decode(encoded if isinstance(encoded, str) else "", validate=True)
    except (binascii.Error, ValueError):
        raise _unsafe(part, "has a map of characters that cannot be read") from None
    words = data[4 + int.from_bytes(data[:4], "little") :]
    if max(map(len, words.split(b"\x00")), default=0) > MAX_WORD:
        raise _unsafe(part, f"makes more than {MAX_WORD} bytes of a character")


def _check_model(model: object) -> None:
    if not isinstance(model, dict):
        raise _unsafe("model", "is missing")
    kind = str(model.get("type", "BPE"))  # old files do not say it
    if kind not in _MODELS:
        raise _unsafe("model", f"is of a kind that is not known: {kind[:60]!r}")
    vocabulary, merges = model.get("vocab"), model.get("merges") or []
    if not isinstance(vocabulary, dict | list) or not isinstance(merges, list):
        raise _unsafe("model", "has no vocabulary, or merges that are no list")
    if len(vocabulary) > MAX_TOKENS or len(merges) > MAX_TOKENS:
        raise _unsafe("model", f"has more than {MAX_TOKENS:,} tokens or merges")
    pairs = () if isinstance(vocabulary, dict) else vocabulary
    tokens = [pair[0] if isinstance(pair, list) and pair else None for pair in pairs] or vocabulary
    if any(not isinstance(token, str) or len(token) > MAX_TOKEN for token in tokens):
        raise _unsafe("model", f"has a token of more than {MAX_TOKEN} characters, or one that is no text")
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > MAX_WORD_CHARACTERS:
        raise _unsafe("model", f"takes words of more than {MAX_WORD_CHARACTERS} characters")
    if model.get("dropout"):
        raise _unsafe("model", "drops merges at random, so that no number could be repeated: set `dropout` to null")


def _unsafe(part: str, why: str) -> UnsafeSource:
    return UnsafeSource(f"The {part} of {NAME} {why}.", hint="Save the tokenizer of the original model.", module=NAME)
