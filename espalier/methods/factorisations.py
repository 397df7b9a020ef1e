"""What methods factorise of one Gram matrix: once for score, solver and all matrices that read the same input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Factorisations:
    """The factorisations of one Gram matrix, by what was made of it and how; nobody may write into them."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}

    def once(self, key: Hashable, factorise: Callable[[], T]) -> T:
        """Return what `factorise` returned when it was first asked for by this key; raises what that raises.

        `key`: what is made, and all that it is made with beside the Gram matrix: damping and the like.
        """
        if key not in self._known:
            self._known[key] = factorise()
        made: T = self._known[key]
        return made


class SharedFactorisations:
    """The factorisations of a block's inputs, each until the last matrix that reads the input is done."""

    def __init__(self, inputs: Iterable[Hashable]) -> None:
        """`inputs`: what each matrix reads, of equal value where matrices read the same."""
        self._readers = Counter(inputs)
        self._of: dict[Hashable, Factorisations] = {}

    def of(self, read: Hashable) -> Factorisations:
        """Return the factorisations for the next matrix that reads an input; its last reader takes them along."""
        self._readers[read] -= 1
        known = self._of.setdefault(read, Factorisations())
        if self._readers[read] <= 0:
            del self._of[read]
        return known
