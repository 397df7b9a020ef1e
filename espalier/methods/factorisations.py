"""What methods factorise of one Gram matrix: once for score, solver and all matrices that read the same input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Assume = Callable[["Tensor"], None]
"""Takes a boolean tensor of no dimension that has to be true."""


class Factorisations:
    """The factorisations of one Gram matrix, by what was made of it and how; nobody may write into them."""

    def __init__(self, assume: Assume | None = None) -> None:
        """`assume`: takes what a factorisation rests on, for whoever looks later; None: it is looked at right away."""
        self._known: dict[Hashable, Any] = {}
        self._assume = assume

    def holds(self, condition: Tensor) -> bool:
        """Tell whether a boolean tensor of no dimension is true; a GPU is not waited for where that is assumed."""
        if self._assume is None:
            return bool(condition)
        self._assume(condition)
        return True

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

    def __init__(self, inputs: Iterable[Hashable], assume: Assume | None = None) -> None:
        """`inputs`: what each matrix reads, of equal value where matrices read the same; `assume`: see there."""
        self._assume = assume
        self._readers = Counter(inputs)
        self._of: dict[Hashable, Factorisations] = {}

    def of(self, read: Hashable) -> Factorisations:
        """Return the factorisations for the next matrix that reads an input; its last reader takes them along."""
        self._readers[read] -= 1
        known = self._of.setdefault(read, Factorisations(self._assume))
        if self._readers[read] <= 0:
            del self._of[read]
        return known
