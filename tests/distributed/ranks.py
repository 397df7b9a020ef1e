"""Ranks for a test: processes forked from one where torch is loaded already, that join a group."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from espalier.distributed.group import RankGroup, joined

Value = TypeVar("Value")
CLEAN = multiprocessing.get_context("forkserver")
SECONDS = 240.0


def run_ranks(size: int, work: Callable[[RankGroup], Value]) -> list[Value]:
    """Run a function in every rank of a group of `size`, one thread each, and return what they give, in order.

    Ranks are forked from a process that has imported the library and run nothing: a fork of one with threads may find
    a lock of the C library held for ever, and autograd refuses to work there. So the function is pickled.
    """
    CLEAN.set_forkserver_preload(["espalier.pipeline"])
    # A server in this process would have threads, which may hold a lock of the C library while it forks.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = CLEAN.Pipe(duplex=False)
        process = CLEAN.Process(target=_rank, args=(rank, size, port, work, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return [_result(pipe, rank) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(rank: int, size: int, port: int, work: Callable[[RankGroup], Any], pipe: Connection) -> None:
    names = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    try:
        with joined("cpu") as group:
            pipe.send((True, work(group)))
            group.barrier()  # nobody leaves while another one reads
    except BaseException:  # noqa: BLE001 - whatever it is, the test tells it
        pipe.send((False, traceback.format_exc()))


def _result(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(SECONDS), f"rank {rank} does not answer"
    went_well, value = pipe.recv()
    assert went_well, f"rank {rank} failed:\n{value}"
    return value
