"""Names of checkpoints, and the repetition in which they were made: written and read here alone.

Rows of the database hold these strings for as long as a job lives, and files in the store bear them: a kind is never
renamed, and a new one takes a line of `Kind`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from string import Formatter
from typing import Final


class Kind(Enum):
    """What a checkpoint holds; the value is the format of its name, with the fields that it takes."""

    RESULT = "result"
    """Report of a finished phase: its figures, and its part of the report."""
    BLOCK = "block-{block:05d}"
    """Changed tensors and masks of one block."""
    NORMS = "norms"
    """Input norms of the dense model."""
    INPUTS = "{statistics}-inputs-{block:05d}"
    """Statistics of what the dense model's matrices in one block read."""
    REMOVED_BLOCKS = "structure-{step}-blocks"
    """Which blocks a step removes, and what stands in for them."""
    NARROWED_BLOCK = "structure-{step}-block-{block:05d}"
    """Changed tensors of a block that a step narrows."""
    KEPT_UNITS = "structure-{step}-block-{block:05d}-choice"
    """Which units of a block stay, and the bias that the others leave."""
    KEPT_EXPERTS = "structure-{step}-experts"
    """Which experts of every block stay."""
    WINDOW = "window"
    """The size of reconstruction's windows that was measured to fit."""
    PICKED = "picked"
    """Which windows of the text have the widest loss gap."""
    RATE_SEARCH = "rate-search"
    """Trials of learning rates so far, and what they come to."""
    STATE = "state"
    """The training state that a retraining resumes from."""
    TRAINED = "trained"
    """The trained values, before they are merged."""

    @property
    def fields(self) -> set[str]:
        """The fields that a name of this kind takes."""
        return {name for _, name, _, _ in Formatter().parse(self.value) if name}


@dataclass(frozen=True)
class RepetitionName:
    """Which repetition of phases it is: `cycle-2`, `member-1`, `cycle-2-member-1`; empty where nothing repeats."""

    cycle: int | None = None
    member: int | None = None

    def __str__(self) -> str:
        parts = {"cycle": self.cycle, "member": self.member}
        return "-".join(f"{name}-{number}" for name, number in parts.items() if number is not None)

    def series(self, measure: str) -> str:
        """Return the name of a series of this repetition: `cycle-2-member-1.training_loss`."""
        return f"{self}.{measure}" if self != RepetitionName() else measure

    @classmethod
    def of_series(cls, name: str) -> tuple[RepetitionName, str]:
        """Return the repetition that a series belongs to, and what it measures."""
        parts = _SERIES.fullmatch(name)
        assert parts is not None  # of any string, all is the measure
        repetition = cls(*(int(parts[part]) if parts[part] else None for part in ("cycle", "member")))
        measure = parts["measure"]
        return (repetition, measure) if repetition.series(measure) == name else (cls(), name)


@dataclass(frozen=True)
class CheckpointName:
    """The name of a checkpoint, unique within its phase; a later one of the same name replaces it."""

    kind: Kind
    block: int | None = None
    step: int | None = None
    """The number of a step that removes whole parts."""
    statistics: str | None = None
    """Which statistics they are, as methods name them."""
    repetition: RepetitionName = field(default_factory=RepetitionName)

    def __post_init__(self) -> None:
        given = {name for name in ("block", "step", "statistics") if getattr(self, name) is not None}
        assert given == self.kind.fields, f"{self.kind} takes {self.kind.fields}, not {given}"

    def __str__(self) -> str:
        name = self.kind.value.format(block=self.block, step=self.step, statistics=self.statistics)
        return name if self.repetition == RepetitionName() else f"{self.repetition}--{name}"

    def of(self, repetition: RepetitionName) -> CheckpointName:
        """Return the name that the same checkpoint has in a repetition."""
        return replace(self, repetition=repetition)

    @classmethod
    def parse(cls, text: str) -> CheckpointName | None:
        """Read a name; None for a string that is none."""
        for kind, pattern in _PATTERNS.items():
            if match := pattern.fullmatch(text):
                parts = match.groupdict()
                block, step, cycle, member = (
                    int(parts[name]) if parts.get(name) else None for name in ("block", "step", "cycle", "member")
                )
                name = cls(kind, block, step, parts.get("statistics"), repetition=RepetitionName(cycle, member))
                return name if str(name) == text else None  # block-3 is no name: there is one way to write each
        return None


RESULT: Final = CheckpointName(Kind.RESULT)
RATE_SEARCH: Final = CheckpointName(Kind.RATE_SEARCH)
STATE: Final = CheckpointName(Kind.STATE)
TRAINED: Final = CheckpointName(Kind.TRAINED)
WINDOW: Final = CheckpointName(Kind.WINDOW)
PICKED: Final = CheckpointName(Kind.PICKED)
NORMS: Final = CheckpointName(Kind.NORMS)
_TURN: Final = r"(?:cycle-(?P<cycle>\d{1,9}))?-?(?:member-(?P<member>\d{1,9}))?"
_SERIES: Final = re.compile(rf"(?:{_TURN}\.)?(?P<measure>.*)", re.ASCII | re.DOTALL)
_FIELDS: Final = {
    "{block:05d}": r"(?P<block>\d{1,9})",
    "{step}": r"(?P<step>\d{1,9})",
    "{statistics}": r"(?P<statistics>\w+(?:-\w+)*)",
}


def _pattern(form: str) -> re.Pattern[str]:
    for place, pattern in _FIELDS.items():
        form = form.replace(place, pattern)
    return re.compile(f"(?:{_TURN}--)?{form}", re.ASCII)


_PATTERNS: Final = {kind: _pattern(kind.value) for kind in Kind}
"""Each kind's format turned round."""
