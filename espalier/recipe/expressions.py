"""Regular expressions and globs of users: RE2, which matches in linear time and in bounded memory."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

MAX_MEMORY_BYTES: Final = 2**20
"""Of one compiled pattern; what would be larger is refused."""
_LOOKS: Final = re.compile(r"\(\?<?[=!]")
"""Looks ahead or behind, which RE2 has not."""
MAX_SECONDS: Final = 0.5
"""Of CPU, for all patterns of a request on all names."""
_BRACES: Final = re.compile(
    r"\\[pP]\{[^{}]*\}|\\x\{[^{}]*\}|\\.|\[\^?\]?(?:\\.|\[:\w*:\]|[^\]\\])*+\]|\{\d+(?:,\d*)?\}|(\{)", re.DOTALL
)
"""Whatever may hold a brace; the group is one that is neither quoted nor a repetition."""


class BadPattern(ValueError):
    """A pattern that RE2 does not take; `place` leads to it from its `targets`, the text says why."""

    def __init__(self, why: str, place: str = "") -> None:
        self.place = place
        super().__init__(why)


class OutOfTime(Exception):
    """The patterns of a request took longer than all of them may."""


class TimeBudget:
    """Seconds of CPU of one thread that all patterns of a request share, and nothing else that it does."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._left, self._end = seconds, 0.0

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Count what is done within."""
        self._end = time.thread_time() + self._left
        try:
            yield
        finally:
            self._left = self._end - time.thread_time()

    def check(self) -> None:
        """Raise OutOfTime when they are spent; within `spending` only."""
        if time.thread_time() > self._end:
            raise OutOfTime


class Selection:
    """The patterns of a step, compiled: what any of `include` finds, or everything where there is none, and what none
    of `exclude` does. Raises BadPattern."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str], budget: TimeBudget | None = None) -> None:
        self._include = _each("include", include, budget)
        _each("exclude", exclude, budget)
        self._any, self._none = _together("include", include), _together("exclude", exclude)

    @property
    def num_included(self) -> int:
        """How many patterns include."""
        return len(self._include)

    def finds(self, index: int, name: str) -> bool:
        """Tell whether an `include` pattern matches a name."""
        return self._include[index].search(name.encode()) is not None

    def selects(self, name: str) -> bool:
        """Tell whether a module name is selected."""
        text = name.encode()
        return (self._any is None or bool(self._any.search(text))) and not (self._none and self._none.search(text))


@lru_cache(maxsize=8)
def selection(include: tuple[str, ...], exclude: tuple[str, ...]) -> Selection:
    """Return the compiled patterns of a step, for who asks name by name; raises BadPattern."""
    return Selection(include, exclude)


def _each(name: str, patterns: Sequence[str], budget: TimeBudget | None) -> list[Any]:
    programs = []
    for index, pattern in enumerate(patterns):
        try:
            programs.append(_compiled(pattern))
        except BadPattern as error:
            raise BadPattern(str(error), f"{name}/{index}") from None
        if budget:
            budget.check()
    return programs


def _together(name: str, patterns: Sequence[str]) -> Any | None:  # noqa: ANN401 - RE2 has no types
    try:
        return _compiled("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None
    except BadPattern as error:
        raise BadPattern(f"together: {error}", name) from None


def _compiled(pattern: str) -> Any:  # noqa: ANN401 - RE2 has no types
    if any(match[1] for match in _BRACES.finditer(pattern)):
        # RE2 would take it literally, where others see a repetition or a fuzzy match.
        raise BadPattern(r"a brace that is no repetition: write `{0,3}` for up to three, `\{` for a brace")
    return _re2(pattern)


def _re2(pattern: str) -> Any:  # noqa: ANN401 - RE2 has no types
    options = re2.Options()
    options.max_mem, options.log_errors, options.never_capture = MAX_MEMORY_BYTES, False, True
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        help_ = (
            "; RE2 cannot look ahead or behind: choose with `include` and `exclude`" if _LOOKS.search(pattern) else ""
        )
        raise BadPattern(f"not in RE2 syntax: {why}{help_}") from None
    finally:
        re2.purge()  # its cache would hold 128 of them
