"""The GPUs of this machine as nvidia-smi lists them, without torch; MIG slices are cards of their own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

PROGRAMS: Final = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")
"""WSL2 has no /proc/driver/nvidia, and its nvidia-smi is on no PATH of a service."""
_FIELDS: Final = ("uuid", "name", "memory.total", "pci.bus_id", "mig.mode.current")
ANSWER_SECONDS: Final = 20.0
KILL_SECONDS: Final = 1.0
"""What the kernel may take to end an nvidia-smi that waits for a broken GPU: it may never end."""
_UUID: Final = re.compile(r"GPU-[0-9A-Za-z-]+")
_NONE: Final = "-1"
"""In CUDA_VISIBLE_DEVICES: what follows is hidden; alone it hides every GPU."""
_SLICE: Final = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)")
_WHOLE: Final = re.compile(r"GPU \d+: .* \(UUID: (\S+)\)")
_GIB_OF_SLICE: Final = re.compile(r"\.(\d+)gb")

log = structlog.get_logger(__name__)


class NoCard(Exception):
    """A worker cannot have the GPUs that it is to use; the message says which, and what to do."""


class NoDriver(NoCard):
    """No nvidia-smi is installed: the machine has no GPU, as far as anybody knows."""


@dataclass(frozen=True)
class Card:
    """A GPU, or a MIG slice of one."""

    uuid: str
    name: str
    memory_bytes: int | None
    """None where nvidia-smi does not know: a process on the card does."""
    bus_id: str
    """Domain, bus and device of the GPU, in small letters: `0000:17:00.0`."""

    @property
    def is_slice(self) -> bool:
        """Whether it is a MIG slice, of which nvidia-smi can be asked next to nothing."""
        return self.uuid.startswith("MIG-")

    @property
    def label(self) -> str:
        """Name, size and UUID for people."""
        size = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.uuid} ({self.name}{size})"


def installed() -> list[Card]:
    """Return all cards in the order of their PCI addresses; raises NoCard where the driver does not answer."""
    rows = [*_rows(_ask(f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"))]
    slices = _slices() if any(mig == "Enabled" for *_, mig in rows) else {}
    cards: list[Card] = []
    for uuid, name, memory, bus_id, mig in rows:
        bus = _short(bus_id)
        if mig == "Enabled":
            for profile, each in slices.get(uuid, []):
                gib = _GIB_OF_SLICE.search(profile)
                cards.append(Card(each, f"{name} {profile}", int(gib[1]) * 2**30 if gib else None, bus))
        else:
            cards.append(Card(uuid, name, int(memory) * 2**20 if memory.isdecimal() else None, bus))
    return sorted(cards, key=lambda card: card.bus_id)


def _rows(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the fields of each GPU; nvidia-smi tells in between of GPUs that it does not reach."""
    for line in filter(str.strip, lines):
        row = [each.strip() for each in line.split(",")]
        if len(row) == len(_FIELDS) and _UUID.fullmatch(row[0]):
            yield row
        else:
            log.warning("nvidia-smi lists something that is no GPU", line=line[:300])


def visible() -> list[Card]:
    """Return the cards that CUDA_VISIBLE_DEVICES leaves, all of them where it is not set; raises NoCard."""
    cards, chosen = installed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return cards
    names = [each.strip() for each in chosen.split(",") if each.strip()]
    return choose(names[: names.index(_NONE)] if _NONE in names else names, cards)


def choose(names: Sequence[str], cards: Sequence[Card]) -> list[Card]:
    """Return the cards that are named by UUID, its beginning, or number; raises NoCard for another name."""
    chosen = []
    for name in names:
        if name.isdecimal():
            matches = [cards[int(name)]] if int(name) < len(cards) else []
        else:
            matches = [card for card in cards if card.uuid.lower().startswith(name.lower())]
        if len(matches) != 1:
            what = "is no GPU" if not matches else "is more than one GPU"
            raise NoCard(f"{name} {what} of this machine; there are {_listed(cards)}: name one of them")
        if matches[0] in chosen:
            raise NoCard(f"{matches[0].uuid} is named twice: one worker has it")
        chosen += matches
    return chosen


def pids_on(card: Card) -> set[int]:
    """Return the processes that hold memory of a card; of a slice, those of its GPU. Raises NoCard."""
    selected = [] if card.is_slice else ["-i", card.uuid]
    lines = _ask(*selected, "--query-compute-apps=pid", "--format=csv,noheader,nounits")
    return {int(line) for line in lines if line.strip().isdecimal()}


def used_bytes(card: Card) -> int | None:
    """Return the memory of a card that is in use, whoever's; None of a slice. Raises NoCard."""
    if card.is_slice:
        return None
    lines = _ask("-i", card.uuid, "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    return int(lines[0]) * 2**20 if lines and lines[0].strip().isdecimal() else None


def cpus_of(card: Card, root: Path = Path("/sys")) -> set[int]:
    """Return the CPUs of the NUMA node that a card is on; none where the machine does not tell."""
    file = root / "bus/pci/devices" / card.bus_id / "local_cpulist"
    return set(_numbers(file.read_text().strip())) if file.is_file() else set()


def _numbers(text: str) -> list[int]:
    """Read `0-3,8`."""
    ranges = [part.partition("-")[::2] for part in text.split(",") if part]
    return [number for first, last in ranges for number in range(int(first), int(last or first) + 1)]


def _listed(cards: Sequence[Card]) -> str:
    return ", ".join(card.label for card in cards) or "none"


def _short(bus_id: str) -> str:
    """Shorten the domain to the four digits that Linux names it by."""
    domain, _, rest = bus_id.strip().lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _slices() -> dict[str, list[tuple[str, str]]]:
    """Map the UUID of a GPU to profile and UUID of each of its MIG slices."""
    slices: dict[str, list[tuple[str, str]]] = {}
    whole = ""
    for line in _ask("-L"):
        if gpu := _WHOLE.match(line):
            whole = gpu[1]
        elif part := _SLICE.match(line):
            slices.setdefault(whole, []).append((part[1], part[2]))
    return slices


def _ask(*arguments: str) -> list[str]:
    """Return the lines that nvidia-smi answers; raises NoCard in its words where it fails, or is not there."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        raise NoDriver(
            "nvidia-smi is not on this machine: install the NVIDIA driver; in a container start it with its GPUs"
        )
    try:
        status, output, errors = _run([program, *arguments])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCard(
            f"nvidia-smi does not answer ({type(error).__name__}): see dmesg; its GPU may have to be reset"
        ) from None
    if status:
        words = " ".join((output + errors).split())[:300]
        raise NoCard(f"nvidia-smi fails: {words or status}: mend the driver, or set ESPALIER_DEVICE=cpu")
    return output.splitlines()


def _run(command: Sequence[str]) -> tuple[int, str, str]:
    """Return status, output and errors of a program that may hang inside the kernel, where nothing ends it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        output, errors = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
        raise
    finally:
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()
    return process.returncode, output, errors
