"""The parts of the form: fields, and groups of them that a choice may open; names are JSON Pointers into the body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "text",
    "number",  # or a word in its place
    "choice",  # one of some words
    "flag",  # yes or no
    "several",  # any of some words
    "lines",  # a list of words, one a line
    "map",  # key=value, one a line
    "data",  # JSON: what has no field of its own
]
OFF, ON = "off", "on"
"""Choices of a group that may be left out as a whole."""


@dataclass(frozen=True)
class Option:
    """A value to choose, with its explanation."""

    value: str
    summary: str = ""
    paper: str = ""
    group: str = ""


@dataclass(frozen=True)
class Field:
    """One input."""

    pointer: str
    label: str
    kind: Kind
    hint: str = ""
    default: str = ""
    """The value of an empty field, as text."""
    options: tuple[Option, ...] = ()
    required: bool = False

    @property
    def id(self) -> str:
        """The input's id in the page."""
        return id_of(self.pointer)


@dataclass(frozen=True)
class FieldGroup:
    """Fields that belong together; with a choice, which of them there are."""

    pointer: str
    label: str
    hint: str = ""
    choice: Field | None = None
    children: tuple[Field | FieldGroup, ...] = ()
    chosen: Option | None = field(default=None)
    """The chosen option."""

    @property
    def id(self) -> str:
        """The group's id in the page."""
        return id_of(self.pointer) + "-group"

    def __getitem__(self, name: str) -> Field | FieldGroup:
        """Return a child by the last part of its pointer."""
        return next(child for child in self.children if child.pointer.rsplit("/", 1)[-1] == name)

    def pointers(self) -> Iterator[str]:
        """Yield the pointers of all inputs of the group."""
        if self.choice is not None:
            yield self.choice.pointer
        for child in self.children:
            if isinstance(child, FieldGroup):
                yield from child.pointers()
            else:
                yield child.pointer


Node = Field | FieldGroup


def id_of(pointer: str) -> str:
    """Return the id that stands for a pointer in a page."""
    return "f" + "".join(letter if letter.isalnum() or letter == "_" else "-" for letter in pointer)
