"""The compute process of one job: `python -m workers.child < request.json` prints JSON lines of workers.messages.

It holds no credentials and needs no network. Standard output is kept for messages: whatever a library prints
there goes to standard error, as the log.
"""

from __future__ import annotations

import io
import os
import platform
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
# Threads that spin at barriers cost three times the CPU time on a shared machine, and buy nothing on an idle one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import transformers  # noqa: TID253 - read by the imports below: offline must be set first

from espalier import limits, recover
from espalier.diagnosis import classify
from espalier.evaluate import baseline, benchmarks
from espalier.export import export, scored
from espalier.messages import ComputeRequest, Done, Failed, Message, Spread
from espalier.model import numerics
from espalier.prune import targets
from espalier.recipe.spec import ENGINE_VERSION
from espalier.retrain import teacher
from espalier.session import Session
from espalier.structure import structure

_PIPE_CLOSED = 3
"""Exit status when nobody listens any more."""


def main() -> int:
    """Read one request from standard input, compute, and say how it went."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    send = _messages(_take_stdout())
    session: Session | None = None
    try:
        request = ComputeRequest.model_validate_json(sys.stdin.readline())
        numerics.be_deterministic(request.threads)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every finished block is an open file
        transformers.utils.logging.disable_progress_bar()
        session = Session(request, send)
        session.results.environment.update(_environment(session))
        send(compute(session))
    except recover.MembersWanted:
        send(Spread())
    except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a message
        traceback.print_exc()
        send(Failed(error=classify(error, phase=session.reporter.phase_now if session else None)))
        return 1
    return 0


def compute(session: Session) -> Done:
    """Run all phases in order; each skips what an earlier attempt has finished."""
    if not session.request.spec.structure:
        targets.check(session)
    limits.check(session)
    teacher.check(session)
    benchmarks.check(session)
    baseline.run(session)
    if session.request.spec.structure:
        structure.run(session)
        targets.check(session)
    recover.run(session)
    written, perplexity = scored.run(session)
    report, gate, files = export.run(session, written, perplexity)
    return Done(report=report, gate=gate, files=files)


def _take_stdout() -> io.BufferedWriter:
    """Keep the real standard output for messages and send everything that others print to standard error."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return pipe


def _messages(pipe: io.BufferedWriter) -> Callable[[Message], None]:
    lock = threading.Lock()

    def send(message: Message) -> None:
        try:
            with lock:
                pipe.write(message.model_dump_json().encode() + b"\n")
                pipe.flush()
        except BrokenPipeError:
            os._exit(_PIPE_CLOSED)  # the supervisor is gone: nothing that follows could be kept

    return send


def _environment(session: Session) -> dict[str, Any]:
    # The launcher puts the process into an empty network where the platform allows; an empty one has a loopback only.
    isolated = {name for _, name in socket.if_nameindex()} <= {"lo"}
    return {
        "engine": ENGINE_VERSION,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "tokenizers", "safetensors")},
        "device": f"{session.device.type} {numerics.device_name(session.device)}",
        "threads": session.request.threads,
        "compute_dtype": numerics.name_of(session.compute_dtype),
        "network_isolated": isolated,
    }


if __name__ == "__main__":
    sys.exit(main())
