"""The ranks of one job: who is who, and what they exchange; sums come out bit for bit the same on every rank.

Every rank runs the same phases in the same order (SPMD): a collective that one rank calls, all of them call. The
launcher's environment names the ranks (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); objects go over gloo, tensors over
gloo on a CPU and NCCL on a GPU.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import torch
from torch import distributed

from espalier.distributed.tree_sum import added
from espalier.errors import EngineError, PeerLostError, device_fault

Value = TypeVar("Value")
TIMEOUT: Final = timedelta(hours=6)
"""How long a rank waits for the others in a collective: a large matrix may keep one of them busy for hours.

A rank that dies ends the group at once, and one that hangs is seen by the steps that nobody makes: this bound is the
last one, for a group that nobody watches.
"""
ALONE_DAYS: Final = 30
"""How long ranks wait while the first one works alone: as long as a job may take."""
POWERS_OF_TWO: Final = (1, 2, 4, 8)
"""Sizes of a group: those that divide the logical shards of the calibration windows."""


class KeyStore(Protocol):
    """What ranks leave each other word in: a store of torch."""

    def set(self, key: str, value: str, /) -> object:
        """Write a value, which ends the waiting for it."""

    def wait(self, keys: list[str], timeout: timedelta, /) -> object:
        """Wait until all of these are written."""


class RankGroup:
    """The ranks of a job; alone, a group of one, where every exchange costs nothing."""

    def __init__(self, rank: int, size: int, store: KeyStore | None) -> None:
        assert size in POWERS_OF_TWO
        self.rank, self.size = rank, size
        self._store = store
        self._turns = itertools.count()

    @classmethod
    def alone(cls) -> RankGroup:
        """Return the group of a process that computes by itself."""
        return cls(0, 1, None)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone speaks, checkpoints and writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            with _peers():
                distributed.all_reduce(torch.zeros(1))  # a CPU tensor: no device is waited for

    def led(self, work: Callable[[], Value]) -> Value:
        """Let rank 0 do something alone, and return its result on every rank; the others wait however long it takes.

        The result travels pickled. An EngineError that the work raises is raised on every rank; anything else ends
        rank 0, and with it the group.
        """
        if self.size == 1:
            return work()
        name = f"led/{next(self._turns)}"
        result: Value | EngineError | None = None
        if self.leads:
            result = _tried(work)
            self._wait_on().set(name, "done")
        else:
            with _peers():
                self._wait_on().wait([name], timedelta(days=ALONE_DAYS))
        result = self.broadcast_object(result)
        if isinstance(result, EngineError):
            raise result
        return result  # type: ignore[return-value]

    def each(self, work: Callable[[], Value]) -> Value:
        """Let every rank do a part of its own, and return its result there.

        An EngineError of one rank is raised on all of them, that of the first rank that has one: the numbers of a part
        tell of the job, and whoever goes on after it goes on together. Anything else ends the rank, and the group.
        """
        if self.size == 1:
            return work()
        result = _tried(work)
        errors = self.gather_objects(result if isinstance(result, EngineError) else None)
        for error in errors:
            if error is not None:
                raise error
        return result  # type: ignore[return-value]

    def broadcast_object(self, value: Value, *, source: int = 0) -> Value:
        """Return one rank's object on every rank; it travels pickled."""
        if self.size == 1:
            return value
        box = [value]
        with _peers():
            distributed.broadcast_object_list(box, src=source, device=torch.device("cpu"))
        return box[0]

    def gather_objects(self, value: Value) -> list[Value]:
        """Return the objects of all ranks, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Value] = [value] * self.size
        with _peers():
            distributed.all_gather_object(values, value)
        return values

    def broadcast(self, tensor: torch.Tensor, *, source: int = 0) -> torch.Tensor:
        """Write one rank's tensor into the tensor of equal shape and dtype that every rank passes, and return it."""
        if self.size > 1:
            with _peers():
                distributed.broadcast(tensor, src=source)
        return tensor

    def sum(self, tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Add up the ranks' tensors in a binary tree, ((0 + 1) + (2 + 3)) + ...; every rank gets the same bits.

        All ranks pass equally many tensors, of equal shapes and dtypes, on one device; None for nothing, which adds
        nothing, and is the sum of nothings. A tensor that is passed may be written into.
        """
        sums = list(tensors)
        if self.size == 1 or not sums:
            return sums
        kinds = self.gather_objects([None if each is None else (tuple(each.shape), each.dtype) for each in sums])
        device = self._device_of(sums)
        for index in range(len(sums)):
            of_ranks = [kind[index] for kind in kinds]
            sums[index] = self._summed(sums[index], of_ranks, device)
        return sums

    def _device_of(self, tensors: Sequence[torch.Tensor | None]) -> torch.device:
        """Return where the tensors lie; the device of the group's tensors where this rank has none."""
        given = next((each.device for each in tensors if each is not None), None)
        if given is not None:
            return given
        return torch.device("cuda" if "nccl" in distributed.get_backend() else "cpu")

    def _summed(
        self,
        own: torch.Tensor | None,
        kinds: Sequence[tuple[tuple[int, ...], torch.dtype] | None],
        device: torch.device,
    ) -> torch.Tensor | None:
        """Exchange sums with a partner, then with one of the other half, and so on: log2(size) times."""
        kind = next((each for each in kinds if each is not None), None)
        if kind is None:
            return None
        step = 1
        while step < self.size:
            partner = self.rank ^ step
            first = partner - partner % step
            other: torch.Tensor | None = None
            if any(each is not None for each in kinds[first : first + step]):
                other = torch.empty(kind[0], dtype=kind[1], device=device)
            self._exchange(own, other, partner)
            own = added(own, other)
            step *= 2
        return own

    def _exchange(self, own: torch.Tensor | None, other: torch.Tensor | None, partner: int) -> None:
        """Send a partner what this rank has, and receive what the partner has."""
        operations = []
        if own is not None:
            operations.append(distributed.P2POp(distributed.isend, own.contiguous(), partner))
        if other is not None:
            operations.append(distributed.P2POp(distributed.irecv, other, partner))
        if operations:
            with _peers():
                for work in distributed.batch_isend_irecv(operations):
                    work.wait()

    def _wait_on(self) -> KeyStore:
        assert self._store is not None
        return self._store


def _tried(work: Callable[[], Value]) -> Value | EngineError:
    try:
        return work()
    except PeerLostError:
        raise  # the others are gone, or do not hear
    except EngineError as error:
        return error


@contextmanager
def joined(device_type: str) -> Iterator[RankGroup]:
    """Join the group that the launcher's environment names, for as long as the context holds; without one, alone.

    `device_type`: of the tensors that are exchanged, `cpu` or `cuda`.
    """
    if "WORLD_SIZE" not in os.environ:
        yield RankGroup.alone()
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    given = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    with _peers():
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=rank == 0 and not given
        )
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo",
            store=distributed.PrefixStore("ranks", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    try:
        yield RankGroup(rank, size, distributed.PrefixStore("group", store))  # type: ignore[attr-defined]
    finally:
        distributed.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    """Tell a rank that is gone from everything else that an exchange may raise."""
    try:
        yield
    except RuntimeError as error:
        if device_fault(str(error)):
            raise
        raise _lost() from error


@contextmanager
def telling_lost_peers() -> Iterator[None]:
    """Tell a rank that is gone where torch itself exchanges amid other work, as sharded models do.

    What gloo and NCCL raise then becomes a PeerLostError; everything else is raised as it is.
    """
    try:
        yield
    except RuntimeError as error:
        exchanged = isinstance(error, distributed.DistError) or "gloo/transport" in str(error)
        if device_fault(str(error)) or not exchanged:
            raise
        raise _lost() from error


def _lost() -> PeerLostError:
    return PeerLostError(
        "a process of the job is gone, or cannot be reached by the others",
        hint="The job goes on from its last checkpoint.",
    )
