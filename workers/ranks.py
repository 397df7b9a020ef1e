"""The ranks of a job that several cards compute: the child launches them, and tells what becomes of them.

Rank 0 writes the child's messages. One that fails, or is killed, ends the whole group; the next attempt goes on from
the checkpoints of rank 0.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

import torch  # noqa: TID253 - the ranks' own library

from espalier.diagnosis import classify
from espalier.distributed.group import RankGroup, joined
from espalier.distributed.launch import RankEndedError, RankFailedError, launch
from espalier.errors import EngineError, PeerLostError
from espalier.messages import ComputeRequest, ErrorInfo, Failed
from espalier.model import numerics
from workers.processes.pipe import MessageWriter, take_stdout

BLAME_SECONDS: Final = 10.0
"""A rank that lost another one waits so long before it fails: the one at fault is found meanwhile, and tells why."""
Work = Callable[[ComputeRequest, MessageWriter, RankGroup], None]


class TooFewCardsError(EngineError, class_="device_lost"):
    """There is not a card for each rank of the job."""

    retryable: ClassVar[bool] = True


def lead(request: ComputeRequest, pipe: MessageWriter, work: Work) -> int:
    """Run a request in as many ranks as it asks for; return the exit status, or end by the signal that ended a rank.

    `work`: of one rank; it raises where the rank fails.
    """
    _require_cards(request)
    pipe.hand_over()
    try:
        launch(
            request.ranks,
            _rank,
            request.model_dump_json().encode(),
            work,
            preload=["espalier.pipeline", "workers.ranks"],
        )
    except RankEndedError as ended:
        if ended.number is not None:  # whoever watches reads it off the status, as of a child alone
            if ended.number != signal.SIGKILL:
                signal.signal(ended.number, signal.SIG_DFL)
            os.kill(os.getpid(), ended.number)
        if ended.text is None:
            raise
        pipe.send(Failed(error=ErrorInfo.model_validate_json(ended.text)))
        return 1
    return 0


def _require_cards(request: ComputeRequest) -> None:
    """Raise TooFewCardsError where ranks would compute on cards, and there is not one for each."""
    there = torch.cuda.device_count()  # asks the driver, and opens no card
    if request.device == "cpu" or (request.device == "auto" and not there) or there >= request.ranks:
        return
    raise TooFewCardsError(
        f"the job computes on {request.ranks} cards, and this worker sees {there}",
        hint="See ESPALIER_WORKER_CLASSES and `espalier worker --gpus`: workers of its class need as many.",
    )


def _rank(payload: bytes, work: Work) -> None:
    stream = take_stdout()  # of all ranks; the first one speaks
    pipe = MessageWriter(stream if os.environ["RANK"] == "0" else Path(os.devnull).open("wb"))  # noqa: SIM115
    try:
        request = ComputeRequest.model_validate_json(payload)
        with joined(numerics.pick_device(request.device).type) as group:
            work(request, pipe, group)
            group.barrier()
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, PeerLostError):
            time.sleep(BLAME_SECONDS)
        raise RankFailedError(classify(error, phase=pipe.phase).model_dump_json()) from error
