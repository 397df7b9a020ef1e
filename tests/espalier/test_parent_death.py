"""What ends a process with its parent, and bounds it."""

from __future__ import annotations

import socket
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
INSIDE = """
import errno, socket, subprocess, sys
print({name for _, name in socket.if_nameindex()} <= {"lo"})
with socket.create_server(("127.0.0.1", 0)) as server:
    rank = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=5).sendall(b'rank 1')"
    other = subprocess.Popen([sys.executable, "-c", rank, str(server.getsockname()[1])])
    server.settimeout(20)
    print(server.accept()[0].recv(6).decode())
    print(other.wait())
for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 80), ("10.0.0.1", 80)):
    try:
        socket.create_connection(address, timeout=5)
    except OSError as error:
        print(errno.errorcode[error.errno])
try:
    socket.getaddrinfo("example.com", 80)
except OSError:
    print("no names")
"""
"""Two processes meet; neither reaches what listens at the port on the machine's own loopback, nor any other machine."""


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


def test_offline_processes_meet_on_a_loopback_and_reach_nothing_else() -> None:
    unshare = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    rootless = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False)
    if unshare.returncode and rootless.returncode:
        pytest.skip("this machine allows no network namespaces")
    with socket.create_server(("127.0.0.1", 0)) as ours:
        command = [sys.executable, "-c", INSIDE, str(ours.getsockname()[1])]
        done = subprocess.run(die_with_parent(command, offline=True), capture_output=True, text=True, check=True)
    unreachable = ["ECONNREFUSED", "ENETUNREACH", "ENETUNREACH", "no names"]
    assert done.stdout.splitlines() == ["True", "rank 1", "0", *unreachable]
