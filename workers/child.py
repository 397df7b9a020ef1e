"""The compute process of one job: `python -m workers.child < request.json` prints JSON lines of workers.messages.

It holds no credentials and needs no network.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import threading
import time
import traceback

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
# Threads that spin at barriers cost three times the CPU time on a shared machine, and buy nothing on an idle one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its name of before
    # Blocks and windows of many sizes come and go: fixed segments would be left in pieces that fit nothing.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import psutil
import transformers  # noqa: TID253 - read by the imports below: offline must be set first

from espalier import pipeline
from espalier.diagnosis import classify
from espalier.distributed.group import RankGroup
from espalier.messages import Alive, ComputeRequest, Failed
from espalier.model import numerics
from espalier.progress import steps_counted
from workers import ranks
from workers.processes.pipe import MessageWriter, take_stdout

ALIVE_SECONDS = 5.0
"""Interval at which the supervisor hears that steps were made, while they are."""


def main() -> int:
    """Read one request from standard input, compute, and say how it went."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()
    gc.set_threshold(700, 10, 10)  # as Python has it: a cycle may hold tensors, and a device's memory with them
    pipe = MessageWriter(take_stdout())
    try:
        request = ComputeRequest.model_validate_json(sys.stdin.readline())
        if request.ranks > 1:
            return ranks.lead(request, pipe, compute)
        compute(request, pipe, RankGroup.alone())
    except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a message
        traceback.print_exc()
        pipe.send(Failed(error=classify(error, phase=pipe.phase)))
        return 1
    return 0


def compute(request: ComputeRequest, pipe: MessageWriter, group: RankGroup) -> None:
    """Compute a request, alone or as one of several ranks, and send the result; raises what makes it fail."""
    numerics.use_deterministic_algorithms(request.threads)
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))  # every finished block is an open file
    transformers.utils.logging.disable_progress_bar()
    threading.Thread(target=_tell_of_steps, args=(pipe,), daemon=True).start()
    pipe.send(pipeline.run(request, pipe.send, group))


def _tell_of_steps(pipe: MessageWriter) -> None:
    """Tell the supervisor now and then that steps are made; say nothing while there are none.

    Stock loaders make none that we see, and a large model on a slow disk takes an hour: bytes that move are steps too.
    """
    sent = (0, bytes_moved())
    while True:
        time.sleep(ALIVE_SECONDS)
        if (now := (steps_counted(), bytes_moved())) != sent:
            sent = now
            pipe.send(Alive())


def bytes_moved() -> int:
    """Return what this process has read from disks and written to them; 0 where the kernel does not tell."""
    with contextlib.suppress(OSError, psutil.Error):
        moved = psutil.Process().io_counters()
        return moved.read_bytes + moved.write_bytes
    return 0


if __name__ == "__main__":
    sys.exit(main())
