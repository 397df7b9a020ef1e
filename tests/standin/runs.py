"""Whole jobs on the pretend card, and what each of their phases cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.nn.attention import SDPBackend, sdpa_kernel

from espalier import pipeline
from espalier.messages import Checkpoint, Done, Message, PhaseCompleted, PhaseStarted
from espalier.session import Session
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.standin.backend import watching
from tests.standin.card import CARD, Books
from tests.standin.tensors import DEVICE


@dataclass
class Run:
    """A job that ended."""

    job: LocalJob
    report: dict[str, Any]
    phases: dict[str, Books] = field(default_factory=dict)
    """Phase -> what it cost; of a phase that ran more than once, its last time."""


@contextmanager
def computing() -> Iterator[None]:
    """Let the engine take the pretend card for the device."""
    # Attention in its parts: the fused kernels of the CPU take no tensor of another device.
    with watching(), sdpa_kernel(SDPBackend.MATH), patch("espalier.model.numerics.pick_device", lambda _: DEVICE):
        yield


def run_on_card(folder: Path, model_dir: Path, texts: Path, *, ran_out: Any = None, **spec: Any) -> Run:
    """Run all phases of a small job on the card; raises what the job raises. `ran_out`: in attempts before."""
    return attempt_on_card(local_job(folder, model_dir, texts, **spec), ran_out=ran_out)


def attempt_on_card(job: LocalJob, *, ran_out: Any = None) -> Run:
    """Run all phases of a job from its checkpoints on; those that it makes are there for the next attempt."""
    request = job.request().model_copy(update={"ran_out": ran_out or {}})
    phases: dict[str, Books] = {}

    def hear(message: Message) -> None:
        if isinstance(message, PhaseStarted):
            CARD.books = phases[message.phase] = Books(peak=CARD.live)
        elif isinstance(message, PhaseCompleted):
            CARD.books = Books(peak=CARD.live)
        elif isinstance(message, Checkpoint):
            job.keep(message)

    with computing():
        done = pipeline.compute(Session(request, hear))
    assert isinstance(done, Done)
    return Run(job, done.report, phases)
