"""What ends a process with its parent, and bounds it."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from espalier.parent_death import die_with_parent
from tests.fixtures.suite.patience import outlive
from workers.processes.process import ROOT

PARENT = """
import subprocess, sys, time
from espalier.parent_death import die_with_parent
code = "import time; print('up', flush=True); time.sleep(600)"
child = subprocess.Popen(die_with_parent([sys.executable, "-c", code]),
                         start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""
LOOK = """
import socket
print({name for _, name in socket.if_nameindex()} <= {"lo"})
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
    print("talks to itself")
"""


def test_a_leashed_process_dies_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert outlive([child]) == []


def test_a_leash_to_a_process_that_is_gone_starts_nothing() -> None:
    command = die_with_parent([sys.executable, "-c", "print('started')"])
    # As if our own process had died between the fork and the signal.
    command[command.index(str(psutil.Process().pid))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_an_offline_process_sees_no_network_but_its_own_loopback() -> None:
    unshare = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    rootless = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if unshare.returncode and rootless.returncode:
        pytest.skip("this machine allows no network namespaces")
    done = subprocess.run(
        die_with_parent([sys.executable, "-c", LOOK], offline=True), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True", "talks to itself"]
