"""Check a tokenizer's files before work: real ones, of the family, no larger than the embedding."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from espalier.errors import UnsafeSource
from espalier.families import FAMILIES, Family
from espalier.probe.documents import read_object, refuse_disguised, refuse_encoding
from espalier.probe.tokenizer import MAX_ADDED, check_tokenizer

FAST: Final = "tokenizer.json"
PAIR: Final = ("vocab.json", "merges.txt")
SENTENCEPIECE: Final = "tokenizer.model"
_OTHERS: Final = re.compile(r"tekken\.json|vocab\.txt|[\w.-]{1,80}\.(model|model\.v\w+|spm|tiktoken)", re.ASCII)
"""Tokenizers of other libraries, which stock transformers has to turn into tokenizer.json first."""
ADDING: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What names further tokens; stock transformers takes time by the square of their number."""
MAX_BYTES: Final = 64 * 2**20
SAVE: Final = "Save the tokenizer again: `AutoTokenizer.from_pretrained(...).save_pretrained(folder)`."

_READ_A_PAIR: Final = frozenset(family.pair_tokenizer for family in FAMILIES.values()) - {None}
"""Tokenizers that read the pair in any family, where tokenizer_config.json names them."""


def missing(directory: Path, family: Family, *, unread: Collection[str] = ()) -> str | None:
    """Return why a model has no usable tokenizer; None when it has one.

    Of the files in `unread` only the names are known. Raises UnsafeSource for a file that is not what its name says.
    """
    _require_few_added([directory / name for name in ADDING if name not in unread])
    if (directory / FAST).is_file():
        if FAST not in unread:
            _check_fast(directory / FAST, family)
        return None
    if all((directory / name).is_file() for name in PAIR):
        named = _named(directory, family)
        if not _reads_a_pair(named, family):
            whose = f"the tokenizer of a {family.model_type}"
            if named is not None and family.pair_tokenizer is not None:
                whose = "the tokenizer_class of tokenizer_config.json"
            return f"the model has vocab.json and merges.txt, which {whose} does not read: save it as tokenizer.json"
        if not set(PAIR) & set(unread):
            _check_pair(directory, family)
        return None
    convert = "convert it to tokenizer.json with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`, where "
    if (directory / SENTENCEPIECE).is_file():
        return f"the model has a SentencePiece tokenizer alone (tokenizer.model): {convert}sentencepiece is installed"
    other = min((path.name for path in directory.iterdir() if _OTHERS.fullmatch(path.name)), default=None)
    if other is not None:
        return f"the model has a tokenizer in {other} alone, which is not read: {convert}its library is installed"
    return "the model has no tokenizer (tokenizer.json, or vocab.json and merges.txt)"


def _named(directory: Path, family: Family) -> object:
    """Return the tokenizer class that a file names beside the family's own; None where none is read."""
    path = directory / "tokenizer_config.json"
    if not path.is_file() or family.tokenizer_is_fixed:
        return None
    return read_object(path, max_bytes=MAX_BYTES).get("tokenizer_class")


def _reads_a_pair(named: object, family: Family) -> bool:
    if named is None:
        return family.pair_tokenizer is not None
    return isinstance(named, str) and named.removesuffix("Fast") in _READ_A_PAIR


def _require_few_added(paths: list[Path]) -> None:
    """Bound what the files beside tokenizer.json add to it, all of them together."""
    count = 0
    for path in paths:
        if path.is_file():
            document = _read(path)
            count += len(document) + sum(len(value) for value in document.values() if isinstance(value, list | dict))
            if count > MAX_ADDED:
                why = f"{path.name} adds tokens beyond the {MAX_ADDED:,} that a tokenizer may add."
                raise UnsafeSource(why, hint=SAVE, module=path.name)


def _check_fast(path: Path, family: Family) -> None:
    document = _read(path)
    model, added = document.get("model"), document.get("added_tokens", [])
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list) or not vocabulary or not isinstance(added, list | None):
        raise UnsafeSource(f"{path.name} is not a tokenizer: it has no vocabulary.", hint=SAVE, module=path.name)
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary)))
    _hold([*ids, *(token.get("id") for token in added or () if isinstance(token, dict))], family, path.name)
    check_tokenizer(document)


def _check_pair(directory: Path, family: Family) -> None:
    vocabulary, merges = (directory / name for name in PAIR)
    _hold(list(_read(vocabulary).values()), family, vocabulary.name)
    refuse_disguised(merges, merges.name)
    with merges.open("rb") as stream:
        start = stream.read(2**16)
    refuse_encoding(start, merges.name)
    lines = start.decode("utf-8", "replace").splitlines()
    if not any(len(line.split()) == 2 for line in lines if not line.startswith("#version")):
        raise UnsafeSource(f"{merges.name} holds no merges: two words a line.", hint=SAVE, module=merges.name)


def _read(path: Path) -> dict[str, Any]:
    if not path.stat().st_size:
        raise UnsafeSource(f"{path.name} is empty.", hint=SAVE, module=path.name)
    refuse_disguised(path, path.name)  # whose hint is another
    try:
        return read_object(path, max_bytes=MAX_BYTES)
    except UnsafeSource as error:
        raise UnsafeSource(error.message, hint=f"{error.hint or 'It may be cut.'} {SAVE}", module=path.name) from None


def _hold(ids: list[object], family: Family, name: str) -> None:
    """Check token ids against the rows of the embedding."""
    numbers = [number for number in ids if type(number) is int]
    if not numbers or len(numbers) < len(ids) or min(numbers) < 0:
        raise UnsafeSource(f"{name} gives tokens ids that are no numbers.", hint=SAVE, module=name)
    if max(numbers) >= family.vocab_size:
        raise UnsafeSource(
            f"{name} has ids up to {max(numbers):,}, and the embedding has {family.vocab_size:,} rows.",
            hint="Give the model's own tokenizer, remove the tokens that were added, or resize the embedding.",
            module=name,
        )
