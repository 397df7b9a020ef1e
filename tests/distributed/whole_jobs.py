"""Whole jobs of several ranks, and what tells whether two jobs ended alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

from espalier.distributed.group import RankGroup
from espalier.messages import Checkpoint
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.jobs import LocalJob

FILES = ("model.safetensors", "masks.safetensors")


def hashes(job: LocalJob) -> dict[str, str]:
    return {name: hashlib.sha256((job.artifact / name).read_bytes()).hexdigest() for name in FILES}


def numbers(job: LocalJob) -> list[tuple[str, object, object]]:
    return [(row.name, row.error_before, row.error_after) for row in job.layers]


def computed_by(size: int, make: Callable[[], LocalJob]) -> tuple[dict[str, str], list[tuple[str, object, object]]]:
    """Run a job in a group of ranks; what its leader wrote and said."""
    (rows, written), *others = run_ranks(size, partial(_attempt, make))
    assert written
    assert others == [(rows, [])] * (size - 1), "all know the same, and one alone writes"
    return hashes(make()), rows


def _attempt(make: Callable[[], LocalJob], group: RankGroup) -> tuple[list[tuple[str, object, object]], list[str]]:
    job = make()
    job.attempt(group=group)
    return numbers(job), [message.name for message in job.messages if isinstance(message, Checkpoint)]
