"""Find what in a configuration would make transformers load code or weights from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator

from espalier.errors import UnsafeSource

NAMES_CODE = frozenset({"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"})
"""Keys that transformers answers by importing code from the repository."""

NAMES_KERNEL = re.compile(r"implementation|kernel|quant", re.IGNORECASE)
"""Keys whose values may name a repository of compiled kernels; a plain word such as `sdpa` is harmless."""

STOCK = "Only models that stock transformers runs without code of their own are accepted: remove the entry."

REPOSITORY = re.compile(r"[/\\:@]")


def refuse_code(value: object, file: str) -> None:
    """Raise UnsafeSource when a configuration, or one nested in it, names code."""
    for path, key, item in _entries(value, ()):
        where = f"`{'.'.join(path)}` of {file}" if all(re.fullmatch(r"\w{1,64}", part) for part in path) else file
        if key in NAMES_CODE and item:
            raise UnsafeSource(f"{where} names code to be run.", hint=STOCK, module=file)
        if NAMES_KERNEL.search(key) and any(REPOSITORY.search(text) for text in _texts(item)):
            raise UnsafeSource(f"{where} names a repository of kernels.", hint=STOCK, module=file)


def _entries(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), key, item
            yield from _entries(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item, path)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
