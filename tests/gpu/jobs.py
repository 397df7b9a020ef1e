"""Jobs on the card: seconds and bytes of their phases and blocks, and a profile of one phase."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from espalier.messages import Checkpoint, ComputeRequest, Done, Message, PhaseCompleted, PhaseStarted, Progress, Warned
from espalier.model import numerics
from espalier.pipeline import compute, recover
from espalier.prune import targets
from espalier.session import Session, limits
from tests.fixtures.library.jobs import local_job
from tests.gpu.setting import Setting

NUM_KERNELS: Final = 5
NAME_LENGTH: Final = 60
COPIES: Final = ("Memcpy HtoD", "Memcpy DtoH", "aten::copy_")
"""How copies between host and card are called; the last one on the pretend card."""


@dataclass
class Profile:
    """The kernels of one phase, until it has come so far."""

    phase: str
    until: int
    """Blocks or steps, after which events would only become more."""
    pretend: bool
    """Whether operators stand for kernels: there are none."""
    seconds: float = 0.0
    _running: torch.profiler.profile | None = None
    _ended: torch.profiler.profile | None = None

    def hear(self, message: Message, device: torch.device) -> None:
        """Begin with the phase, and end where enough is seen."""
        if isinstance(message, PhaseStarted) and message.phase == self.phase:
            kinds = torch.profiler.ProfilerActivity
            on = kinds.CUDA if device.type == "cuda" else kinds.CPU
            self._running = torch.profiler.profile(activities=[on], acc_events=True)
            self._running.start()
            self.seconds = -time.monotonic()
        if self._running is not None and (
            isinstance(message, PhaseCompleted) or (isinstance(message, Progress) and message.current >= self.until)
        ):
            numerics.synchronize(device)
            self.seconds += time.monotonic()
            self._running.stop()
            self._running, self._ended = None, self._running

    def numbers(self) -> dict[str, Any]:
        """Return the fractions of time that the card was busy and that copies took, and the longest kernels."""
        ended: Any = self._ended
        events = list(ended.events() or []) if ended else []
        kernels = [each for each in events if each.device_type == DeviceType.CUDA and not _is_annotation(each)]
        spent: Counter[str] = Counter()
        for event in events if self.pretend else kernels:  # the pretend card has operators of the CPU alone
            spent[event.name] += event.self_cpu_time_total if self.pretend else event.time_range.elapsed_us()
        if not spent.total():
            return {"profile": "no kernel was recorded"}
        whole = self.seconds * 1e6
        copies = sum(each for name, each in spent.items() if name.startswith(COPIES))
        return {
            "profiled_seconds": round(self.seconds, 3),
            "busy": round(spent.total() / whole, 3),
            "host_copies": round(copies / whole, 3),
            "kernels": {_short(name): round(each / whole, 3) for name, each in spent.most_common(NUM_KERNELS)},
        }

    def text(self) -> str:
        """Say the same in a cell of a table."""
        numbers = self.numbers()
        if "profile" in numbers:
            return str(numbers["profile"])
        kernels = ", ".join(f"{name} {spent:.0%}" for name, spent in numbers["kernels"].items())
        return f"busy {numbers['busy']:.0%}, copies to and from the host {numbers['host_copies']:.0%}; {kernels}"


def _is_annotation(event: Any) -> bool:
    """Tell whether an event of the card is the range of a name, and no kernel."""
    return bool(getattr(event, "is_user_annotation", False))


def _short(name: str) -> str:
    return name.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")[:NAME_LENGTH]


@dataclass
class Ended:
    """What a job took."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Phase -> seconds."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Phase -> bytes of the card."""
    blocks: dict[str, list[float]] = field(default_factory=dict)
    """Phase -> when it began and when each block was written, in seconds."""
    warnings: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    """Of a whole job."""
    artifact: Path = Path()

    def block_seconds(self, phase: str) -> float:
        """Return the seconds of a block in the middle: the first one warms up, behind the last one nobody reads."""
        times = self.blocks[phase]
        spans = [after - before for before, after in pairwise(times)]
        return median(spans[1:-1] or spans)


def run_job(
    setting: Setting,
    model: Path,
    *,
    whole: bool = False,
    profile: Profile | None = None,
    hear: Callable[[Session, Message], object] = lambda _session, _message: None,
    changes: dict[str, Any] | None = None,
    **spec: Any,
) -> Ended:
    """Compute a job on the card, all phases of it or only what changes weights; raises what the job raises.

    `changes`: fields of the request that are not as usual.
    """
    device = setting.card.device
    job = local_job(setting.workspace(), model, setting.texts, **spec)
    given: dict[str, Any] = {"device": "cuda"} | (changes or {})
    request = ComputeRequest.model_validate(job.request().model_dump() | given)
    ended = Ended(artifact=job.artifact)

    def listen(message: Message) -> None:
        if profile is not None:
            profile.hear(message, device)
        _note(ended, message)
        hear(session, message)

    with setting.card.computing():
        session = Session(request, listen)
        if whole:
            done = compute(session)
            assert isinstance(done, Done)
            ended.report = done.report
        else:
            targets.check(session)
            limits.check(session)
            recover.run(session)
    return ended


def _note(ended: Ended, message: Message) -> None:
    if isinstance(message, PhaseStarted):
        ended.blocks[message.phase] = [time.monotonic()]
    elif isinstance(message, Checkpoint) and message.name.startswith("block-"):
        ended.blocks[message.phase].append(time.monotonic())
    elif isinstance(message, PhaseCompleted):
        ended.seconds[message.phase] = message.seconds
        ended.peaks[message.phase] = message.peak_memory_bytes
    elif isinstance(message, Warned):
        ended.warnings.append(message.code)
