"""The text that ships with Python: the prose of `pydoc_data`, split into training and held-out topics."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator

RUN = 10
"""Words in a row that count as the same text."""


def python_docs(split: str) -> str:
    """Return one split, topics sorted and joined by two newlines; a fifth of them is held out as `validation`.

    Topics quote one another at length: half of what is held out also stands in other topics. So the training split
    leaves out every paragraph that has ten words in a row in common with the held-out topics.
    """
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    held_out = [topics[key] for key in sorted(topics) if _is_held_out(key)]
    if split == "validation":
        return "\n\n".join(held_out)
    known = {run for topic in held_out for run in (*_runs(topic), *_paragraph_starts(topic))}
    rest = (topics[key].split("\n\n") for key in sorted(topics) if not _is_held_out(key))
    return "\n\n".join(part for parts in rest for part in parts if known.isdisjoint(_runs(part)))


def _is_held_out(topic: str) -> bool:
    return int.from_bytes(hashlib.sha256(topic.encode()).digest()[:4], "big") % 5 == 0


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """Return every run of RUN words; a shorter text is one run."""
    words = text.split()
    return (tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1)))


def _paragraph_starts(text: str) -> Iterable[tuple[str, ...]]:
    """Return the first run of every paragraph, which is the whole of a short one."""
    return (tuple(part.split()[:RUN]) for part in text.split("\n\n"))
