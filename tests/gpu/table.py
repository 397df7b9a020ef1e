"""Rows of the proof: measured one by one until time is up, and written to JSON and markdown after each."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.gpu import roofline
from tests.gpu.setting import Setting

MAX_TEXT: Final = 400
"""Characters of an exception that a cell holds; standard error has all of it."""
_FOLDERS: Final = re.compile(r"(?<![\w.])~?/(?:[\w.+@-]+/)+")
_IDS: Final = re.compile(r"(GPU|MIG)-[0-9a-f-]{8,}", re.IGNORECASE)


class OutOfTime(BaseException):
    """Time is up in the middle of a row; nothing that catches errors may take it for one."""


@dataclass(frozen=True)
class Measured:
    """What came of a row."""

    text: str
    holds: bool = True
    """Whether it is what was expected."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The same for programs, and more of it."""


@dataclass(frozen=True)
class Row:
    """One thing to prove."""

    name: str
    what: str
    expected: str
    seconds: float
    """The longest that it may take; where less is left, it is not begun."""
    measure: Callable[[Setting], Measured]


@contextmanager
def _stopping_at(deadline: float) -> Iterator[None]:
    """Raise OutOfTime in the row that runs when `time.monotonic()` reaches the deadline."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # whoever else watches over this process


def prove(rows: Sequence[Row], setting: Setting, folder: Path, *, deadline: float) -> bool:
    """Measure rows in order and write `gpu.json` and `gpu.md` after each; tell whether all of them hold.

    `deadline`: in seconds of `time.monotonic()`; what may take longer than is left is listed as not run.
    """
    written = [_blank(row) for row in rows]
    _write(folder, setting, written)
    for index, row in enumerate(rows):
        left = deadline - time.monotonic()
        if row.seconds > left:
            written[index]["verdict"] = f"not run: {max(left, 0):.0f} s were left, and it may take {row.seconds:.0f}"
        else:
            written[index] = _measure(row, setting, deadline)
        _write(folder, setting, written)
        _print(written[index])
    return all(item["verdict"] == "ok" for item in written)


def _blank(row: Row) -> dict[str, Any]:
    return {"row": row.name, "what": row.what, "expected": row.expected, "measured": "", "verdict": "not run"}


def _measure(row: Row, setting: Setting, deadline: float) -> dict[str, Any]:
    began = time.monotonic()
    cells: dict[str, Any]
    try:
        with _stopping_at(deadline):
            measured = row.measure(setting)
        cells = {"measured": measured.text, "verdict": "ok" if measured.holds else "does not hold"}
        cells |= {"numbers": measured.numbers} if measured.numbers else {}
    except OutOfTime:
        cells = {"verdict": f"stopped: time was up after {time.monotonic() - began:.0f} s"}
    except Exception as error:  # noqa: BLE001 - the one place where what a row raises becomes its verdict
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # they hold tensors, and so the card's memory
        cells = {"verdict": f"error: {type(error).__name__}: {error}"[:MAX_TEXT]}
    setting.clear()
    return _blank(row) | cells | {"seconds": round(time.monotonic() - began, 2)}


def anonymous(value: Any) -> Any:
    """Take out of texts what tells whose machine it was: folders, the host's name, ids of cards."""
    if isinstance(value, dict):
        return {key: anonymous(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [anonymous(item) for item in value]
    if not isinstance(value, str):
        return value
    host = socket.gethostname()
    return _IDS.sub(r"\1", _FOLDERS.sub("", value.replace(host, "host") if len(host) > 3 else value))


def _print(cells: dict[str, Any]) -> None:
    parts = [cells["row"], cells["measured"], cells["verdict"]]
    sys.stdout.write(" | ".join(part for part in parts if part) + "\n")
    sys.stdout.flush()


def _write(folder: Path, setting: Setting, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = anonymous({"pretend": setting.card.pretend, "device": setting.facts, "rows": rows})
    _replace(folder / "gpu.json", json.dumps(document, indent=1) + "\n")
    _replace(folder / "gpu.md", _markdown(document))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: the process may be ended at any moment."""
    new = path.with_suffix(f"{path.suffix}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)  # noqa: PTH105 - atomic


PRETEND: Final = """\
# The proof on the pretend accelerator

**No result**: made by `python3 -m tests.gpu --standin`, which shows that the program runs from end to end. Its numbers
are a CPU's."""
REAL: Final = """\
# The proof on a GPU

Made by `make gpu`, in one process and at most seven minutes; rows stand in the order of their value, and what did not
run says so. Models are random, of the shapes named; seconds of a whole model are extrapolated from the blocks that were
built."""


def _markdown(document: dict[str, Any]) -> str:
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in document["device"].items())
    lines = [_line("row", "what", "expected", "measured", "verdict"), "|---" * 5 + "|"]
    lines += [
        _line(*(row[name] for name in ("row", "what", "expected", "measured", "verdict"))) for row in document["rows"]
    ]
    constants = [_line("constant", "value", "source"), "|---" * 3 + "|", *(_line(*row) for row in roofline.constants())]
    parts = [PRETEND if document["pretend"] else REAL, f"Device: {facts or 'not known yet'}.", "\n".join(lines)]
    parts += ["## The roofline", roofline.ABOUT, "\n".join(constants)]
    return "\n\n".join(parts) + "\n"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"
