"""Connections that give nothing, or too much, are cut off; those that are slow and go on are served."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from app import server
from app.main import create_app
from app.platform import connections
from app.settings import Settings

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def address(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server as ours, but for its patience."""
    monkeypatch.setattr(connections, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.05)
    app = create_app(Settings(home=tmp_path, database_url=sqlite_url))
    config = uvicorn.Config(app, port=0, log_config=None, http=connections.PromptProtocol, timeout_graceful_shutdown=2)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield running.servers[0].sockets[0].getsockname()
    running.should_exit = True
    thread.join(20)


def _connected(address: tuple[str, int]) -> socket.socket:
    made = socket.create_connection(address, timeout=20)
    made.settimeout(20)
    return made


def _answer(connection: socket.socket) -> bytes:
    """The answer to `GET`, head and body, which may come in pieces."""
    received = b""
    while not received.endswith(b'{"status":"ok"}'):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


def _rest(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionError:  # cut off while something of ours was on its way
            return received
        if not piece:
            return received
        received += piece


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /heal",
        GET[:-2],
        POST + b"Content-Length: 100\r\n\r\n{",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunked body"],
)
def test_half_a_request_is_answered_and_cut_off(address: tuple[str, int], sent: bytes) -> None:
    with _connected(address) as connection:
        connection.sendall(sent)
        answer = _rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request-timeout"


def test_a_body_that_nobody_reads_is_not_waited_for(address: tuple[str, int]) -> None:
    with _connected(address) as connection:
        connection.sendall(GET[:-2] + b"Content-Length: 1000000\r\n\r\nx")
        answer = _rest(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_slow_request_that_goes_on_is_served(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LEAST_BYTES_PER_SECOND", 10)
    with _connected(address) as connection:
        for byte in GET:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)
        assert _answer(connection).startswith(b"HTTP/1.1 200 ")


def test_a_kept_connection_waits_for_its_next_request(address: tuple[str, int]) -> None:
    with _connected(address) as connection:
        for _ in range(2):
            connection.sendall(GET)
            assert _answer(connection).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.6)


def test_empty_lines_between_requests_are_not_waited_for(address: tuple[str, int]) -> None:
    with _connected(address) as connection:
        connection.sendall(GET)
        assert _answer(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert _rest(connection).startswith(b"HTTP/1.1 408 ")


def test_a_head_without_an_end_is_refused(address: tuple[str, int]) -> None:
    with _connected(address) as connection:
        try:
            for number in range(100):
                connection.sendall(b"GET / HTTP/1.1\r\n" if not number else b"X-%d: " % number + b"v" * 4000 + b"\r\n")
        except ConnectionError:
            return
        assert _rest(connection).startswith(b"HTTP/1.1 431 ")


def test_a_body_in_crumbs_is_refused(address: tuple[str, int]) -> None:
    with _connected(address) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            connection.sendall(b"1\r\n \r\n" * 20_000)
        except ConnectionError:
            return
        assert _rest(connection).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_leaves_behind_many_requests_is_no_error(
    address: tuple[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with socket.create_connection(address) as client:
            client.sendall((POST + b"Content-Length: 2\r\n\r\n{}") * 20)
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(GET)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    time.sleep(0.2)  # what was begun for those who left ends
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == []


def test_a_process_keeps_as_many_connections_as_it_has_files_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 2048))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert server.connections(Settings(api_max_connections=500)) == 500
    assert not asked
    assert server.connections(Settings(api_max_connections=10_000)) == 2048 - 256
    assert asked == [(2048, 2048)]
