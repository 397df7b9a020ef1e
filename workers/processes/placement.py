"""Placement of workers on a machine: each computes on a group of cards, with a part of the cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from app.settings import Settings
from app.worker_classes import class_named
from espalier.memory import Device
from workers.processes import cards, machine
from workers.processes.cards import Card, NoCard, NoDriver

_ALIKE: Final = 0.05
"""Cards of one worker class may differ by so much of their memory: some is kept back for page tables and ECC."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Placement:
    """What one worker computes on, one job at a time."""

    device: Device
    cards: tuple[Card, ...] = ()
    """Those that its children see, and no others; none on a CPU, and where no nvidia-smi names them."""
    cpus: frozenset[int] = field(default_factory=frozenset)
    """Where its threads run; all of the process's where empty."""

    @classmethod
    def of(cls, settings: Settings, worker_class: str = "default") -> Placement:
        """Return the placement of a worker that is told no cards: the first ones there are, or the CPU.

        A class of CPUs gets jobs by what a CPU holds, and leaves a GPU of the same machine to the others.
        """
        named = class_named(settings.classes, worker_class)
        declared = named.device
        if settings.device == "cpu" or (settings.device == "auto" and declared == "cpu"):
            return cls("cpu")
        try:
            there = cards.visible()
        except NoCard as refusal:
            if settings.device == "auto":
                level = "info" if isinstance(refusal, NoDriver) else "warning"
                getattr(log, level)("the CPU computes, and no GPU", reason=str(refusal))
                return cls("cpu")
            log.warning("the GPU is unknown", reason=str(refusal))
            return cls("cuda")
        if not there:
            return cls("cpu" if settings.device == "auto" else settings.device)
        return divide(there[: named.cards], each=named.cards)[0]

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the smallest of its cards, or of the machine; None when it is unknown."""
        if self.device == "cpu":
            return machine.host_memory_bytes()
        sizes = [card.memory_bytes for card in self.cards]
        return min((size for size in sizes if size is not None), default=None)

    def settings(self, settings: Settings) -> Settings:
        """Return settings for this placement: its device, and as many threads as cores unless somebody has set them."""
        threads = len(self.cpus) if self.cpus and "threads" not in settings.model_fields_set else settings.threads
        return settings.model_copy(update={"device": self.device, "threads": threads})

    def enter(self) -> None:
        """Bind this process, and so its children, to the cards and cores."""
        if self.cards:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(card.uuid for card in self.cards)
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)


def all_cards(settings: Settings, worker_class: str) -> list[Placement]:
    """Return a placement for each card of the machine, or for as many as the class has; none where none is to be used.

    Cards of unequal memory need a worker class each: that is said, and nothing is placed.
    """
    if settings.device == "cpu":
        return []
    try:
        return wanted("auto", settings, worker_class)
    except NoCard as refusal:
        log.info("workers take the first GPU, or the CPU", reason=str(refusal))
        return []


def wanted(gpus: str, settings: Settings, worker_class: str = "default") -> list[Placement]:
    """Return a placement for each card of `--gpus`: `auto` for all, a number of them, or UUIDs; raises NoCard.

    Workers of a class of several cards have as many each.
    """
    if settings.device == "cpu":
        raise NoCard("--gpus takes GPUs and ESPALIER_DEVICE=cpu forbids them: leave one of the two out")
    there = cards.visible()
    if gpus == "auto":
        chosen = there
    elif gpus.isdecimal():
        chosen = there[: int(gpus)]
        if not 0 < int(gpus) <= len(there):
            raise NoCard(
                f"--gpus {gpus} asks for {gpus} GPUs and this machine has {len(there)}: ask for at most so many"
            )
    else:
        chosen = cards.choose([each.strip() for each in gpus.split(",") if each.strip()], there)
    if not chosen:
        raise NoCard(
            "this machine has no GPU to compute on: see `nvidia-smi -L`; a GPU in MIG mode takes slices "
            "(nvidia-smi mig -cgi ... -C), a container its GPUs (--gpus all)"
        )
    _require_alike(chosen)
    return divide(chosen, each=class_named(settings.classes, worker_class).cards)


def _require_alike(chosen: Sequence[Card]) -> None:
    """Refuse cards of unequal memory: jobs go to workers of a class by one number."""
    sizes = [card.memory_bytes for card in chosen if card.memory_bytes is not None]
    if sizes and min(sizes) < (1 - _ALIKE) * max(sizes):
        listed = ", ".join(card.label for card in chosen)
        raise NoCard(
            f"workers of one class have cards of one size, and these differ: {listed}; start one worker for each size, "
            "with --gpus UUIDs and a --worker-class of its own in ESPALIER_WORKER_CLASSES"
        )


def divide(chosen: Sequence[Card], *, each: int = 1) -> list[Placement]:
    """Return a placement for each card, or for so many in a row; cards of one NUMA node divide its cores.

    Raises NoCard where they do not come out even.
    """
    if len(chosen) % each:
        raise NoCard(
            f"workers of this class have {each} cards each (ESPALIER_WORKER_CLASSES), and {len(chosen)} are given: "
            f"give a multiple of {each}, by number or UUIDs, or another --worker-class"
        )
    allowed = os.sched_getaffinity(0)
    near = {card: frozenset(cards.cpus_of(card) & allowed) or frozenset(allowed) for card in chosen}
    cores: dict[Card, frozenset[int]] = {}
    for card in chosen:
        neighbours = [other for other in chosen if near[other] == near[card]]
        ordered, place = sorted(near[card]), neighbours.index(card)
        begin, end = (len(ordered) * at // len(neighbours) for at in (place, place + 1))
        cores[card] = frozenset(ordered[begin:end] or ordered)  # fewer cores than cards: they share what there is
    groups = [tuple(chosen[first : first + each]) for first in range(0, len(chosen), each)]
    return [Placement("cuda", group, frozenset[int]().union(*(cores[card] for card in group))) for group in groups]
