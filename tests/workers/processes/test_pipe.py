"""The pipe of a child: what one end sends the other takes, and nobody waits for an end that is gone."""

from __future__ import annotations

import os
import subprocess
import sys

from espalier.messages import Log, Progress
from tests.fixtures.suite.patience import Patience
from workers.messages import MESSAGES, AnyMessage
from workers.processes.pipe import MessageReader
from workers.processes.process import ROOT

STEP = Progress(phase="pruning", current=1, total=2, unit="block")
CHILD = """
from espalier.messages import Progress
from workers.processes.pipe import MessageWriter, take_stdout
pipe = MessageWriter(take_stdout())
print("what a library prints", flush=True)
for _ in range({times}):
    pipe.send(Progress(phase="pruning", current=1, total=2, unit="block"))
"""


def started(times: int, *, stdout: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", CHILD.format(times=times)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=stdout, stderr=subprocess.PIPE)


def read(messages: bytes, log: bytes) -> tuple[list[AnyMessage], list[str]]:
    """What the supervisor's end makes of bytes on both pipes, and the tail of the log."""
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    for end, data in ((out_end, messages), (err_end, log)):
        with os.fdopen(end, "wb") as stream:
            stream.write(data)
    taken: list[AnyMessage] = []
    with os.fdopen(out, "rb") as stdout, os.fdopen(err, "rb") as stderr:
        reader: MessageReader[AnyMessage] = MessageReader(stdout, stderr, MESSAGES.validate_json)
        patience = Patience(20)
        while not reader.drained:
            taken += reader.take(wait_seconds=0.01)
            patience.pause(0.001, "the reader ends with its streams")
        reader.join(1)
    return taken, reader.tail


def test_messages_and_what_a_library_prints_go_different_ways() -> None:
    with started(2, stdout=subprocess.PIPE) as child:
        messages, log = child.communicate(timeout=60)
    taken, tail = read(messages, log)
    assert (child.returncode, tail) == (0, ["what a library prints"])
    assert [message for message in taken if isinstance(message, Progress)] == [STEP, STEP]


def test_a_child_whose_supervisor_is_gone_ends() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with started(1, stdout=writing) as child:
        os.close(writing)
        _, log = child.communicate(timeout=60)
    assert (child.returncode, log) == (3, b"what a library prints\n")


def test_a_line_that_is_no_message_is_one_of_the_log_and_the_last_twenty_are_kept() -> None:
    taken, tail = read(b'{"kind": "none"}\n', b"".join(b"line %d\n\n" % number for number in range(30)))
    texts = sorted(message.text for message in taken if isinstance(message, Log) and message.level == "warning")
    assert texts == ['not a message: {"kind": "none"}']
    assert tail == [f"line {number}" for number in range(10, 30)]
    assert len(taken) == 31
